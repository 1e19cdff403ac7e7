# cmake -DWAY=… -DSOURCE=… -DBUILD=… -DWORK=… -P run.cmake: builds and runs the consumer in one way.
#   package      find_package against `cmake --install` of this build, both components
#   core_package find_package against an installed core, with every other library hidden
#   core_folder  add_subdirectory of the core alone, with every other library hidden
#   folder       add_subdirectory of everything; quick where ccache holds the library's objects
cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}\n${output}")
  endif()
endfunction()

set(hidden)
foreach(package PCRE2 Utf8proc nlohmann_json Highway Catch2 CLI11)
  list(APPEND hidden -DCMAKE_DISABLE_FIND_PACKAGE_${package}=ON)
endforeach()
set(common -G Ninja -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}
  -DCMAKE_BUILD_TYPE=${BUILD_TYPE} "-DCMAKE_CXX_FLAGS_DEBUG=${FLAGS_DEBUG}")
set(consumer ${CMAKE_COMMAND} -S ${SOURCE}/tests/consumer -B ${WORK}/build ${common})
set(programs two_units plain)
file(REMOVE_RECURSE ${WORK})

if(WAY STREQUAL "package")
  run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
  run(${consumer} -DCIUIC_PART=ciuic -DCMAKE_PREFIX_PATH=${WORK}/prefix)
  list(APPEND programs compiled)
elseif(WAY STREQUAL "core_package")
  run(${CMAKE_COMMAND} -S ${SOURCE} -B ${WORK}/core ${common} ${hidden} -DCIUIC_CORE_ONLY=ON)
  run(${CMAKE_COMMAND} --install ${WORK}/core --prefix ${WORK}/prefix)
  run(${consumer} ${hidden} -DCMAKE_PREFIX_PATH=${WORK}/prefix)
elseif(WAY STREQUAL "core_folder")
  run(${consumer} ${hidden} -DCIUIC_FROM=folder -DCIUIC_FOLDER=${SOURCE} -DCIUIC_CORE_ONLY=ON -DCIUIC_INSTALL=ON)
elseif(WAY STREQUAL "folder")
  if(NOT LAUNCHER)
    message("skipped: without ccache this would compile the whole library once more")
    return()
  endif()
  run(${consumer} -DCIUIC_PART=ciuic -DCIUIC_FROM=folder -DCIUIC_FOLDER=${SOURCE} -DCIUIC_INSTALL=ON
    -DCIUIC_WARNINGS_AS_ERRORS=${WARNINGS_AS_ERRORS})
  list(APPEND programs compiled)
endif()
run(${CMAKE_COMMAND} --build ${WORK}/build -j 2 --target ${programs})
foreach(program ${programs})
  run(${WORK}/build/${program})
endforeach()
file(REMOVE_RECURSE ${WORK})
