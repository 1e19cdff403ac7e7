# Builds tests/arm with the cross compiler and runs its programs under qemu:
#   cmake -DSOURCE=… -DBUILD=… [-DHEADERS=/usr/include] -P run.cmake
# Prints "skipped: …" where something is missing.
find_program(CXX aarch64-linux-gnu-g++)
find_program(QEMU NAMES qemu-aarch64 qemu-aarch64-static)
find_path(CATCH catch2/catch.hpp PATHS ${HEADERS} NO_DEFAULT_PATH)  # version 2: no library
foreach(need "CXX;g++-aarch64-linux-gnu" "QEMU;qemu-user" "CATCH;catch2")
  list(GET need 0 variable)
  list(GET need 1 package)
  if(NOT ${variable})
    message("skipped: wanted Debian's ${package}, for kernels on 64-bit Arm")
    return()
  endif()
endforeach()

set(tests op_accuracy_test op_invariance_test packed_formats_test)
execute_process(COMMAND ${CMAKE_COMMAND} -S ${SOURCE} -B ${BUILD} -G Ninja -DCMAKE_BUILD_TYPE=Debug
  -DCMAKE_CXX_FLAGS_DEBUG=-O1 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64
  -DCMAKE_CXX_COMPILER=${CXX} -DCIUIC_HEADERS=${HEADERS} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${BUILD} COMMAND_ERROR_IS_FATAL ANY)
foreach(test IN LISTS tests)
  execute_process(COMMAND ${QEMU} -cpu max ${BUILD}/${test} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
