# cmake -D IN=a.proto -D OUT=b.proto -P for_protoc_c.cmake
#
# protoc-c (1.4, and 1.5) refuses `optional` in proto3. On the wire, and in protoc's own view, such a
# field is the only member of a oneof, which protoc-c does understand: so that is what it gets to see.
# Everybody else (reflection, other languages) sees the files as they are written.
file(READ "${IN}" text)
string(REGEX REPLACE "\n  optional ([A-Za-z0-9_.]+ ([a-z0-9_]+) = [0-9]+;)" "\n  oneof opt_\\2 { \\1 }" text "${text}")
if(text MATCHES "\n *optional ")
    message(FATAL_ERROR "${IN}: an optional field is not written as `  optional TYPE name = N;`")
endif()
file(WRITE "${OUT}" "${text}")
