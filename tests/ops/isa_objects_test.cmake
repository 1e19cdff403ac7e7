# cmake -DNM=nm "-DOBJECTS=a.o;b.o" -P isa_objects_test.cmake
# The linker keeps one copy of a weak symbol. If a kernel object offered one, it could become the
# copy that code for every processor calls, with instructions not every processor has. Kernels also
# call nothing but the C library's memory functions (and a sanitizer's).
if(NOT OBJECTS)
  message(FATAL_ERROR "isa_objects_test: no objects were given")
endif()
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} ${object} OUTPUT_VARIABLE symbols RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "isa_objects_test: ${NM} failed on ${object}")
  endif()
  string(REGEX MATCHALL "[^\n]* [VWvwu] [^\n]*" weak "${symbols}")
  list(FILTER weak EXCLUDE REGEX " (__)?[atu]san|__sanitizer|__asan|__tsan|__ubsan")
  if(weak)
    message(SEND_ERROR "${object} has weak symbols:\n${weak}")
  endif()
  string(REGEX MATCHALL " U [^\n]*" needed "${symbols}")
  list(FILTER needed EXCLUDE REGEX
    " U (mem(cpy|set|move)|__(asan|tsan|ubsan|sanitizer)_.*|__stack_chk_fail|_GLOBAL_OFFSET_TABLE_)$")
  if(needed)
    message(SEND_ERROR "${object} calls what it should not:\n${needed}")
  endif()
endforeach()
