# sc_grpc: the C core by name. gRPC's CMake files fail where protoc's C++ plugin is not installed, and its
# pkg-config file links some fifty libraries that the core already brings.
include_guard(GLOBAL)

find_path(SC_GRPC_INCLUDE_DIR grpc/grpc.h REQUIRED)
find_library(SC_GRPC_LIBRARY grpc REQUIRED)
find_library(SC_GPR_LIBRARY gpr REQUIRED)
add_library(sc_grpc INTERFACE)
target_include_directories(sc_grpc SYSTEM INTERFACE ${SC_GRPC_INCLUDE_DIR})
target_link_libraries(sc_grpc INTERFACE ${SC_GRPC_LIBRARY} ${SC_GPR_LIBRARY})
