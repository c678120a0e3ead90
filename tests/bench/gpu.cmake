# Benchmarks of the CUDA backend.
add_executable(gpu_step_bench gpu_step_bench.cc gpu_floor.cu)
target_link_libraries(gpu_step_bench PRIVATE lorica_cuda lorica_kernels)
