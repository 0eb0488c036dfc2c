# cmake -D IN=file -D OUT=file.c -D SYMBOL=name -P embed.cmake
# Writes a C file that holds the bytes of IN as `const unsigned char name[]` and `name_bytes`.
file(READ "${IN}" hex HEX)
string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
file(WRITE "${OUT}" "#include <stddef.h>\n\nextern const unsigned char ${SYMBOL}[];\nextern const size_t ${SYMBOL}_bytes;\n"
     "const unsigned char ${SYMBOL}[] = {\n${hex}};\n"
     "const size_t ${SYMBOL}_bytes = sizeof(${SYMBOL});\n")
