# cmake -DFILE=… -DCOMPILER=… -DINCLUDE=… -P run.cmake
# Compiles FILE as it stands, which must work, and with MUST_FAIL defined, which must not, for the
# reason that a line `// expect: REGEX` in the file gives (both compilers' words).
cmake_minimum_required(VERSION 3.25)
file(STRINGS ${FILE} expected REGEX "^// expect: ")
string(REGEX REPLACE "^// expect: " "" expected "${expected}")
if(NOT expected)
  message(FATAL_ERROR "${FILE}: no line `// expect: REGEX`")
endif()
set(compile ${CMAKE_COMMAND} -E env LC_ALL=C ${COMPILER} -std=c++20 -fsyntax-only -Wall -Wextra -Werror=unused-result
  -I${INCLUDE} ${FILE})
execute_process(COMMAND ${compile} RESULT_VARIABLE status ERROR_VARIABLE output)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${FILE}: the allowed use does not compile\n${output}")
endif()
execute_process(COMMAND ${compile} -DMUST_FAIL RESULT_VARIABLE status ERROR_VARIABLE output)
if(status EQUAL 0)
  message(FATAL_ERROR "${FILE}: the misuse compiles")
endif()
if(NOT output MATCHES "${expected}")
  message(FATAL_ERROR "${FILE}: the misuse fails for another reason than `${expected}`\n${output}")
endif()
