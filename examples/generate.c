/* Asks semanticached to continue a prompt: examples/generate 127.0.0.1:50051 "Once upon a time"
 *
 * The gRPC C core carries bytes; protobuf-c makes them. README.md tells how to build it.
 */
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/optional.h"
#include "semanticache/v1/inference.pb-c.h"

static grpc_byte_buffer *make_request(const char *prompt)
{
    Semanticache__V1__GenerateRequest request = SEMANTICACHE__V1__GENERATE_REQUEST__INIT;
    Semanticache__V1__SamplingParams sampling = SEMANTICACHE__V1__SAMPLING_PARAMS__INIT;
    Semanticache__V1__KvOptions kv = SEMANTICACHE__V1__KV_OPTIONS__INIT;
    request.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_TEXT;
    request.text.data = (uint8_t *)prompt;
    request.text.len = strlen(prompt);
    request.sampling = &sampling;
    request.kv = &kv;
    SC_PB_SET(&sampling, max_tokens, 32); /* fields that are `optional` in the .proto */
    SC_PB_SET(&sampling, temperature, 0);
    kv.mode = SEMANTICACHE__V1__KV_MODE__KV_MODE_COMPRESSED;

    grpc_slice slice =
        grpc_slice_malloc(semanticache__v1__generate_request__get_packed_size(&request));
    semanticache__v1__generate_request__pack(&request, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

static int print_reply(grpc_byte_buffer *buffer)
{
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, buffer))
        return 1;
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    Semanticache__V1__GenerateResponse *reply = semanticache__v1__generate_response__unpack(
        NULL, GRPC_SLICE_LENGTH(all), GRPC_SLICE_START_PTR(all));
    grpc_slice_unref(all);
    if (reply == NULL || reply->n_outputs == 0)
        return 1;
    printf("%.*s\n", (int)reply->outputs[0]->text.len, (char *)reply->outputs[0]->text.data);
    if (reply->receipt != NULL)
        printf("kept %llu of %llu entries\n", (unsigned long long)reply->receipt->physical_entries,
               (unsigned long long)reply->receipt->exact_entries);
    semanticache__v1__generate_response__free_unpacked(reply, NULL);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: generate ADDRESS PROMPT\n");
        return 2;
    }
    grpc_init();
    grpc_channel_credentials *creds = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(argv[1], creds, NULL);
    grpc_completion_queue *cq = grpc_completion_queue_create_for_next(NULL);
    grpc_slice method = grpc_slice_from_static_string("/semanticache.v1.Inference/Generate");
    grpc_call *call = grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, cq, method,
                                               NULL, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);

    /* A unary call is one batch. */
    grpc_byte_buffer *request = make_request(argv[2]), *reply = NULL;
    grpc_metadata_array initial, trailing;
    grpc_status_code status = GRPC_STATUS_UNKNOWN;
    grpc_slice details = grpc_empty_slice();
    grpc_metadata_array_init(&initial);
    grpc_metadata_array_init(&trailing);
    grpc_op ops[6] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},  {.op = GRPC_OP_SEND_MESSAGE},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT}, {.op = GRPC_OP_RECV_INITIAL_METADATA},
        {.op = GRPC_OP_RECV_MESSAGE},           {.op = GRPC_OP_RECV_STATUS_ON_CLIENT}};
    ops[1].data.send_message.send_message = request;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &initial;
    ops[4].data.recv_message.recv_message = &reply;
    ops[5].data.recv_status_on_client.trailing_metadata = &trailing;
    ops[5].data.recv_status_on_client.status = &status;
    ops[5].data.recv_status_on_client.status_details = &details;
    int failed = grpc_call_start_batch(call, ops, 6, NULL, NULL) != GRPC_CALL_OK;
    if (!failed)
        grpc_completion_queue_next(cq, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    if (status != GRPC_STATUS_OK)
        fprintf(stderr, "status %d: %.*s\n", status, (int)GRPC_SLICE_LENGTH(details),
                (char *)GRPC_SLICE_START_PTR(details));
    failed = failed || status != GRPC_STATUS_OK || reply == NULL || print_reply(reply) != 0;

    grpc_byte_buffer_destroy(request);
    grpc_byte_buffer_destroy(reply);
    grpc_metadata_array_destroy(&initial);
    grpc_metadata_array_destroy(&trailing);
    grpc_slice_unref(details);
    grpc_call_unref(call);
    grpc_completion_queue_destroy(cq);
    grpc_channel_destroy(channel);
    grpc_channel_credentials_release(creds);
    grpc_shutdown();
    return failed;
}
