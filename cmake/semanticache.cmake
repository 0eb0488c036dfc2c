# Options, warnings, and the three functions that every directory uses:
#   sc_library(sc_model SOURCES config.c ... PUBLIC sc_base PRIVATE PkgConfig::JANSSON)
#   sc_program(semcache SOURCES main.c ... LINK sc_base)        -> build/<preset>/bin/semcache
#   sc_test(model/config LINK sc_model LABELS unit)             -> tests/model/test_config.c, ctest model.config
# sc_test is called in tests/<dir>/CMakeLists.txt; extra sources go after SOURCES.

option(SC_WERROR "Treat warnings as errors" ON)
option(SC_CUDA "Build the CUDA backend plugin" OFF)
option(SC_FUZZ "Build libFuzzer targets (clang)" OFF)
set(SC_SANITIZE "" CACHE STRING "Sanitizers, e.g. address;undefined or thread")
# ThreadSanitizer would have to be told of every switch between stacks.
if(SC_CUDA OR SC_FUZZ OR SC_SANITIZE MATCHES "thread")
    set(sc_simt_default OFF)
else()
    set(sc_simt_default ON)
endif()
option(SC_SIMT "Test the CUDA backend on a stand-in device" ${sc_simt_default})

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

add_library(sc_flags INTERFACE)
target_include_directories(sc_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_definitions(sc_flags INTERFACE _GNU_SOURCE SC_VERSION="${PROJECT_VERSION}")
# -ffp-contract=off: what one source line computes must not depend on how a compiler fuses it.
# Kernels that want FMA ask for it by intrinsic. Cutting a message to its buffer is what we want, hence
# no -Wformat-truncation.
target_compile_options(sc_flags INTERFACE
    -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings
    -Wundef -Wvla -Wformat=2 -Wno-format-truncation -fno-common -ffp-contract=off -fno-math-errno -fno-omit-frame-pointer)
if(SC_WERROR)
    target_compile_options(sc_flags INTERFACE -Werror)
endif()
if(SC_SANITIZE)
    # gcc documents false alarms of these two when it instruments the code.
    target_compile_options(sc_flags INTERFACE -Wno-maybe-uninitialized -Wno-stringop-overflow)
    string(REPLACE ";" "," sc_sanitize_list "${SC_SANITIZE}")
    target_compile_options(sc_flags INTERFACE -fsanitize=${sc_sanitize_list} -fno-sanitize-recover=all)
    target_link_options(sc_flags INTERFACE -fsanitize=${sc_sanitize_list})
    string(FIND "${sc_sanitize_list}" "thread" sc_has_tsan)
    if(NOT sc_has_tsan EQUAL -1)
        target_compile_definitions(sc_flags INTERFACE SC_TSAN=1)
    else()
        target_compile_definitions(sc_flags INTERFACE SC_ASAN=1)
    endif()
endif()
if(SC_FUZZ)
    target_compile_options(sc_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

function(sc_library name)
    cmake_parse_arguments(A "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
    add_library(${name} STATIC ${A_SOURCES})
    target_link_libraries(${name} PUBLIC sc_flags ${A_PUBLIC} PRIVATE ${A_PRIVATE})
endfunction()

function(sc_program name)
    cmake_parse_arguments(A "" "" "SOURCES;LINK" ${ARGN})
    add_executable(${name} ${A_SOURCES})
    target_link_libraries(${name} PRIVATE sc_flags ${A_LINK})
endfunction()

# tests-tsan, tests-cuda: what tests of that label need, where nothing else is tested.
add_custom_target(tests-tsan)
add_custom_target(tests-cuda)
function(sc_needed_by label)
    add_dependencies(tests-${label} ${ARGN})
endfunction()

function(sc_test path)
    cmake_parse_arguments(A "" "TIMEOUT" "SOURCES;LINK;LABELS;ARGS" ${ARGN})
    string(REPLACE "/" "." test_name ${path})
    string(REPLACE "/" "_" target_name "test_${path}")
    get_filename_component(dir ${path} DIRECTORY)
    get_filename_component(base ${path} NAME)
    if(NOT TARGET PkgConfig::CMOCKA)
        pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET GLOBAL cmocka)
    endif()
    add_executable(${target_name} ${PROJECT_SOURCE_DIR}/tests/${dir}/test_${base}.c ${A_SOURCES})
    target_link_libraries(${target_name} PRIVATE sc_flags ${A_LINK} PkgConfig::CMOCKA m)
    # Paths that tests need: the source tree, programs, and real fixtures kept beside the checkout.
    target_compile_definitions(${target_name} PRIVATE
        SC_SOURCE_DIR="${PROJECT_SOURCE_DIR}" SC_BIN_DIR="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}"
        SC_FIXTURES_DIR="${PROJECT_SOURCE_DIR}/../shared/fixtures")
    add_test(NAME ${test_name} COMMAND ${target_name} ${A_ARGS})
    if(NOT A_TIMEOUT)
        set(A_TIMEOUT 300)
    endif()
    set_tests_properties(${test_name} PROPERTIES LABELS "${A_LABELS}" TIMEOUT ${A_TIMEOUT}
        SKIP_RETURN_CODE 77)
    foreach(label tsan cuda)
        if(label IN_LIST A_LABELS)
            sc_needed_by(${label} ${target_name})
        endif()
    endforeach()
endfunction()
