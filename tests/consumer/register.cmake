# Registers the consumer in every way a user may choose. The host project itself is CMakeLists.txt
# beside this file; run.cmake configures, builds and runs it.
foreach(way package core_package core_folder folder)
  add_test(NAME consumer_${way} COMMAND ${CMAKE_COMMAND} -DWAY=${way} -DSOURCE=${PROJECT_SOURCE_DIR}
    -DBUILD=${PROJECT_BINARY_DIR} -DWORK=${CMAKE_CURRENT_BINARY_DIR}/consumer_${way}
    -DCOMPILER=${CMAKE_CXX_COMPILER} -DLAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER}
    -DBUILD_TYPE=${CMAKE_BUILD_TYPE} -DFLAGS_DEBUG=${CMAKE_CXX_FLAGS_DEBUG}
    -DWARNINGS_AS_ERRORS=${CIUIC_WARNINGS_AS_ERRORS}
    -P ${CMAKE_CURRENT_SOURCE_DIR}/consumer/run.cmake)
  set_tests_properties(consumer_${way} PROPERTIES LABELS house TIMEOUT 600
    SKIP_REGULAR_EXPRESSION "^skipped: ")
endforeach()
