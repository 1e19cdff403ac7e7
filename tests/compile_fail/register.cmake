# Every .cpp beside this file is a pair: it compiles, and with MUST_FAIL defined it must not.
file(GLOB pairs CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cpp)
foreach(pair ${pairs})
  get_filename_component(name ${pair} NAME_WE)
  add_test(NAME compile_fail_${name} COMMAND ${CMAKE_COMMAND} -DFILE=${pair}
    -DCOMPILER=${CMAKE_CXX_COMPILER} -DINCLUDE=${PROJECT_SOURCE_DIR}/include
    -P ${CMAKE_CURRENT_LIST_DIR}/run.cmake)
  set_tests_properties(compile_fail_${name} PROPERTIES LABELS house TIMEOUT 60)
endforeach()
