"""The stock services: health and reflection, as stock clients use them."""

import threading

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

import harness as h
from harness import Code, health

SERVING = health.HealthCheckResponse.SERVING
OWN_SERVICES = {
    "semanticache.v1.Inference",
    "semanticache.v1.Control",
    "grpc.health.v1.Health",
}


class Health(h.DaemonCase):
    def check(self, service, **kwargs):
        return self.client.health(
            "Check", health.HealthCheckRequest(service=service), timeout=10, **kwargs
        )

    def test_the_server_and_its_services_are_serving(self):
        for service in ("", "semanticache.v1.Inference"):
            self.assertEqual(self.check(service).status, SERVING)

    def test_an_unknown_service_is_not_found(self):
        self.assert_refused(Code.NOT_FOUND, "no.such.Service", call=self.check)

    def watch(self, service):
        return self.client.health(
            "Watch", health.HealthCheckRequest(service=service), timeout=h.PATIENCE_S
        )

    def test_watch_tells_the_state_at_once(self):
        call = self.watch("")
        self.assertEqual(next(call).status, SERVING)
        call.cancel()

    def test_watch_of_an_unknown_service_stays_open(self):
        call = self.watch("no.such.Service")
        self.assertEqual(next(call).status, health.HealthCheckResponse.SERVICE_UNKNOWN)
        self.assertTrue(call.is_active())
        call.cancel()

    def test_many_watchers_come_and_go(self):
        calls = [self.watch("") for _ in range(50)]
        for call in calls:
            self.assertEqual(next(call).status, SERVING)
        for call in calls:
            call.cancel()
        self.assertEqual(self.check("").status, SERVING)


class Reflection(h.DaemonCase):
    """A client that knows no .proto file."""

    VERSIONS = {"v1": h.reflection_v1, "v1alpha": h.reflection_v1alpha}

    def ask_server(self, version, **question):
        return self.ask_many(version, [question])[0]

    def ask_many(self, version, questions):
        module = self.VERSIONS[version]
        call = self.client.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=module.ServerReflectionRequest.SerializeToString,
            response_deserializer=module.ServerReflectionResponse.FromString,
        )
        requests = iter([module.ServerReflectionRequest(**q) for q in questions])
        return list(call(requests, timeout=h.PATIENCE_S))

    def test_services_are_listed(self):
        for version in self.VERSIONS:
            answer = self.ask_server(version, list_services="")
            names = {s.name for s in answer.list_services_response.service}
            self.assertLessEqual(OWN_SERVICES, names)
            self.assertIn(f"grpc.reflection.{version}.ServerReflection", names)

    def pool_from(self, version, symbol):
        """Descriptors of a symbol, fetched file by file as a dynamic client does."""
        pool, seen, wanted = descriptor_pool.DescriptorPool(), {}, []
        answer = self.ask_server(version, file_containing_symbol=symbol)
        while True:
            for raw in answer.file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(raw)
                if file.name not in seen:
                    seen[file.name] = file
                    wanted += file.dependency
            wanted = [name for name in wanted if name not in seen]
            if not wanted:
                break
            answer = self.ask_server(version, file_by_filename=wanted[0])
            self.assertTrue(answer.HasField("file_descriptor_response"), wanted[0])

        def add(name):
            for dependency in seen[name].dependency:
                add(dependency)
            pool.Add(seen[name])

        for name in seen:
            add(name)
        return pool

    def test_a_dynamic_client_can_generate(self):
        want = self.client.generate(self.probe).outputs[0]
        for version in self.VERSIONS:
            with self.subTest(version=version):
                pool = self.pool_from(version, "semanticache.v1.Inference")
                method = pool.FindServiceByName("semanticache.v1.Inference").FindMethodByName(
                    "Generate"
                )
                factory = message_factory.MessageFactory(pool)
                request = factory.GetPrototype(method.input_type)()
                json_format.Parse(json_format.MessageToJson(self.probe), request)
                call = self.client.channel.unary_unary(
                    "/semanticache.v1.Inference/Generate",
                    request_serializer=lambda m: m.SerializeToString(),
                    response_deserializer=factory.GetPrototype(method.output_type).FromString,
                )
                answer = call(request, timeout=h.PATIENCE_S)
                self.assertEqual(list(answer.outputs[0].token_ids), list(want.token_ids))

    def test_methods_and_messages_are_found_by_their_names(self):
        for version in self.VERSIONS:
            for symbol in (
                "semanticache.v1.GenerateRequest",
                "semanticache.v1.Inference.Generate",
                "semanticache.v1.KvMode",
                "grpc.health.v1.Health",
            ):
                answer = self.ask_server(version, file_containing_symbol=symbol)
                self.assertTrue(answer.HasField("file_descriptor_response"), (version, symbol))

    def test_what_is_unknown_is_an_error_response_and_the_stream_goes_on(self):
        for version in self.VERSIONS:
            answers = self.ask_many(
                version,
                [
                    {"file_containing_symbol": "no.such.Symbol"},
                    {"file_by_filename": "no/such/file.proto"},
                    {"list_services": "*"},
                ],
            )
            self.assertEqual([a.error_response.error_code for a in answers[:2]], [5, 5])
            self.assertTrue(answers[2].list_services_response.service)

    def test_streams_that_are_cut_cost_nothing(self):
        done = threading.Event()

        def questions(module):
            yield module.ServerReflectionRequest(list_services="")
            done.wait(h.PATIENCE_S)

        for version, module in self.VERSIONS.items():
            call = self.client.channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=module.ServerReflectionRequest.SerializeToString,
                response_deserializer=module.ServerReflectionResponse.FromString,
            )(questions(module))
            next(call)
            call.cancel()
        done.set()


if __name__ == "__main__":
    h.main()
