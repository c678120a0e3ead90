# The CUDA language and toolkit, for the whole project: included from the root.
set(LORICA_CUDA_ARCHITECTURES "90a" CACHE STRING "Architectures to compile for, as in sm_90a")
if(NOT CMAKE_CUDA_COMPILER)
  find_program(CMAKE_CUDA_COMPILER nvcc HINTS /usr/local/cuda/bin)
endif()
set(CMAKE_CUDA_ARCHITECTURES ${LORICA_CUDA_ARCHITECTURES})
enable_language(CUDA)
# CMake 3.25 does not know this of newer compilers.
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA_STANDARD_DEFAULT 17)
find_package(CUDAToolkit REQUIRED)
