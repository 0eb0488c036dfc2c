#include "daemon/services.h"

#include <grpc/status.h>

#include "daemon/symbols.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "grpc/reflection/v1alpha/reflection.pb-c.h"

/* v1 and v1alpha are the same bytes on the wire under two names: both are served with v1's
 * messages. */
typedef Grpc__Reflection__V1__ServerReflectionRequest Request;
typedef Grpc__Reflection__V1__ServerReflectionResponse Response;

static void next_request(struct sc_rpc *rpc, void *state)
{
    (void)state;
    sc_rpc_receive(rpc);
}

static void on_closed(struct sc_rpc *rpc, void *state, bool cancelled)
{
    (void)rpc;
    (void)state;
    (void)cancelled;
}

static const struct sc_rpc_hooks hooks = {.on_sent = next_request, .on_closed = on_closed};

static void answer_error(struct sc_rpc *rpc, Response *m, int code, const char *text)
{
    Grpc__Reflection__V1__ErrorResponse e = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;

    e.error_code = code;
    e.error_message = (char *)(uintptr_t)text;
    m->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    m->error_response = &e;
    sc_rpc_send(rpc, &m->base);
}

static void answer_files(struct sc_rpc *rpc, Response *m, const struct sc_symbol_file *files,
                         size_t n)
{
    Grpc__Reflection__V1__FileDescriptorResponse r =
        GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    ProtobufCBinaryData list[SC_SYMBOL_FILES_MAX];

    if (n == 0) {
        answer_error(rpc, m, GRPC_STATUS_NOT_FOUND, "no such file or symbol");
        return;
    }
    for (size_t i = 0; i < n; i++)
        list[i] =
            (ProtobufCBinaryData){.len = files[i].len, .data = (uint8_t *)(uintptr_t)files[i].data};
    r.n_file_descriptor_proto = n;
    r.file_descriptor_proto = list;
    m->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    m->file_descriptor_response = &r;
    sc_rpc_send(rpc, &m->base);
}

static void answer_services(struct sc_rpc *rpc, Response *m)
{
    Grpc__Reflection__V1__ListServiceResponse r = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    Grpc__Reflection__V1__ServiceResponse services[16], *list[16];

    SC_ASSERT(sc_n_services <= SC_ARRAY_LEN(services));
    for (size_t i = 0; i < sc_n_services; i++) {
        grpc__reflection__v1__service_response__init(&services[i]);
        services[i].name = (char *)(uintptr_t)sc_services[i]->descriptor->name;
        list[i] = &services[i];
    }
    r.n_service = sc_n_services;
    r.service = list;
    m->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    m->list_services_response = &r;
    sc_rpc_send(rpc, &m->base);
}

static void server_reflection_info(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    const struct sc_symbols *symbols = sc_rpc_app(rpc)->symbols;
    struct sc_symbol_file files[SC_SYMBOL_FILES_MAX];
    const Request *request = (const Request *)message;
    Response m = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;

    if (request == NULL) { /* the client has asked all it wants */
        sc_rpc_finish(rpc, NULL);
        return;
    }
    sc_rpc_set_hooks(rpc, &hooks, NULL);
    m.valid_host = request->host;
    m.original_request = (Request *)(uintptr_t)request;
    switch (request->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        answer_files(rpc, &m, files, sc_symbols_by_file(symbols, request->file_by_filename, files));
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        answer_files(rpc, &m, files,
                     sc_symbols_by_name(symbols, request->file_containing_symbol, files));
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        answer_services(rpc, &m);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        answer_error(rpc, &m, GRPC_STATUS_NOT_FOUND, "proto3 messages have no extensions");
        break;
    default:
        answer_error(rpc, &m, GRPC_STATUS_INVALID_ARGUMENT, "message_request: not set");
    }
}

static const struct sc_service_method methods[] = {
    {.name = "ServerReflectionInfo",
     .handler = server_reflection_info,
     .open_to_all = true,
     .streams_in = true,
     .background = true,
     .always = true,
     .input = &grpc__reflection__v1__server_reflection_request__descriptor},
};

const struct sc_service sc_service_reflection_v1 = {
    &grpc__reflection__v1__server_reflection__descriptor,
    methods,
    SC_ARRAY_LEN(methods),
};

const struct sc_service sc_service_reflection_v1alpha = {
    &grpc__reflection__v1alpha__server_reflection__descriptor,
    methods,
    SC_ARRAY_LEN(methods),
};
