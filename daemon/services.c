#include "daemon/services.h"

#include "daemon/convert.h"

const struct sc_service *const sc_services[] = {
    &sc_service_inference, &sc_service_documents,     &sc_service_control,
    &sc_service_health,    &sc_service_reflection_v1, &sc_service_reflection_v1alpha,
};
const size_t sc_n_services = SC_ARRAY_LEN(sc_services);

bool sc_service_is_served(const struct sc_service *service)
{
    for (size_t i = 0; i < service->n_methods; i++) {
        if (service->methods[i].handler != NULL)
            return true;
    }
    return false;
}

struct sc_convert sc_app_convert(const struct sc_app *app, const struct sc_identity *identity)
{
    return (struct sc_convert){
        .model = app->model,
        .config = app->config,
        .max_context = app->engine_info.max_context,
        .exact_layers = app->exact_layers,
        .chat = app->chat,
        .no_chat = app->no_chat.text,
        .documents = app->documents,
        .identity = identity,
    };
}
