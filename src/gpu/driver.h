/* driver.h: the part of CUDA's driver API that moonlet uses, declared here so that no CUDA header is needed, and found
 * at run time in libcuda.so.1. */
#ifndef ML_GPU_DRIVER_H
#define ML_GPU_DRIVER_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr, CUmemGenericAllocationHandle;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphNode_st *CUgraphNode;
typedef struct CUgraphExec_st *CUgraphExec;

enum { CUDA_SUCCESS = 0, CUDA_ERROR_OUT_OF_MEMORY = 2, CUDA_ERROR_NO_DEVICE = 100, CUDA_ERROR_NOT_READY = 600 };
enum {
  CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
  CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE = 36,       /* kHz */
  CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH = 37, /* bits */
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
  CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED = 102
};
enum { CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8, CU_STREAM_WAIT_VALUE_GEQ = 0 };
enum { CU_STREAM_NON_BLOCKING = 1, CU_EVENT_DISABLE_TIMING = 2, CU_MEMHOSTALLOC_PORTABLE = 1 };
enum { CU_MEM_ALLOCATION_TYPE_PINNED = 1, CU_MEM_LOCATION_TYPE_DEVICE = 1, CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3 };

typedef struct CUmemLocation {
  int type, id;
} CUmemLocation;
typedef struct CUmemAllocationProp {
  int type, requestedHandleTypes;
  CUmemLocation location;
  void *win32HandleMetaData;
  struct {
    unsigned char compressionType, gpuDirectRDMACapable;
    unsigned short usage;
    unsigned char reserved[4];
  } allocFlags;
} CUmemAllocationProp;
typedef struct CUmemAccessDesc {
  CUmemLocation location;
  int flags;
} CUmemAccessDesc;

typedef struct CUDA_KERNEL_NODE_PARAMS {
  CUfunction func;
  unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
  void **kernelParams, **extra;
  void *kern; /* of func, which is given instead */
  CUcontext ctx;
} CUDA_KERNEL_NODE_PARAMS;

/* How a node waits for another. */
typedef struct CUgraphEdgeData {
  unsigned char from_port, to_port, type, reserved[5];
} CUgraphEdgeData;
enum { CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC = 1, CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC = 1 };

/* X(name without cu, symbol, parameters) */
#define ML_CUDA_ENTRIES(X)                                                                                             \
  X(Init, cuInit, (unsigned flags))                                                                                    \
  X(DriverGetVersion, cuDriverGetVersion, (int *version))                                                              \
  X(DeviceGetCount, cuDeviceGetCount, (int *count))                                                                    \
  X(DeviceGet, cuDeviceGet, (CUdevice * device, int ordinal))                                                          \
  X(DeviceGetName, cuDeviceGetName, (char *name, int bytes, CUdevice device))                                          \
  X(DeviceGetAttribute, cuDeviceGetAttribute, (int *value, int attribute, CUdevice device))                            \
  X(DevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device))                          \
  X(DevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, (CUdevice device))                                          \
  X(CtxSetCurrent, cuCtxSetCurrent, (CUcontext context))                                                               \
  X(StreamCreate, cuStreamCreate, (CUstream * stream, unsigned flags))                                                 \
  X(StreamDestroy, cuStreamDestroy_v2, (CUstream stream))                                                              \
  X(StreamSynchronize, cuStreamSynchronize, (CUstream stream))                                                         \
  X(StreamWaitEvent, cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned flags))                              \
  X(EventCreate, cuEventCreate, (CUevent * event, unsigned flags))                                                     \
  X(EventDestroy, cuEventDestroy_v2, (CUevent event))                                                                  \
  X(EventRecord, cuEventRecord, (CUevent event, CUstream stream))                                                      \
  X(EventQuery, cuEventQuery, (CUevent event))                                                                         \
  X(EventSynchronize, cuEventSynchronize, (CUevent event))                                                             \
  X(EventElapsedTime, cuEventElapsedTime, (float *milliseconds, CUevent from, CUevent to))                             \
  X(GetErrorName, cuGetErrorName, (CUresult error, const char **name))                                                 \
  X(GetErrorString, cuGetErrorString, (CUresult error, const char **text))                                             \
  X(MemGetInfo, cuMemGetInfo_v2, (size_t * available, size_t * total))                                                 \
  X(MemAlloc, cuMemAlloc_v2, (CUdeviceptr * out, size_t bytes))                                                        \
  X(MemFree, cuMemFree_v2, (CUdeviceptr address))                                                                      \
  X(MemHostAlloc, cuMemHostAlloc, (void **out, size_t bytes, unsigned flags))                                          \
  X(MemFreeHost, cuMemFreeHost, (void *address))                                                                       \
  X(MemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))          \
  X(MemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, (void *to, CUdeviceptr from, size_t bytes, CUstream stream))                \
  X(MemcpyPeerAsync, cuMemcpyPeerAsync,                                                                                \
    (CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context, size_t bytes, CUstream stream))   \
  X(MemsetD8Async, cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream))              \
  X(MemGetAllocationGranularity, cuMemGetAllocationGranularity,                                                        \
    (size_t * out, const CUmemAllocationProp *kind, int option))                                                       \
  X(MemAddressReserve, cuMemAddressReserve,                                                                            \
    (CUdeviceptr * out, size_t bytes, size_t alignment, CUdeviceptr near, unsigned long long flags))                   \
  X(MemAddressFree, cuMemAddressFree, (CUdeviceptr address, size_t bytes))                                             \
  X(MemCreate, cuMemCreate,                                                                                            \
    (CUmemGenericAllocationHandle * out, size_t bytes, const CUmemAllocationProp *kind, unsigned long long flags))     \
  X(MemRelease, cuMemRelease, (CUmemGenericAllocationHandle memory))                                                   \
  X(MemMap, cuMemMap,                                                                                                  \
    (CUdeviceptr at, size_t bytes, size_t offset, CUmemGenericAllocationHandle memory, unsigned long long flags))      \
  X(MemSetAccess, cuMemSetAccess, (CUdeviceptr at, size_t bytes, const CUmemAccessDesc *who, size_t count))            \
  X(MemUnmap, cuMemUnmap, (CUdeviceptr at, size_t bytes))                                                              \
  X(ModuleLoadData, cuModuleLoadData, (CUmodule * module, const void *image))                                          \
  X(ModuleUnload, cuModuleUnload, (CUmodule module))                                                                   \
  X(ModuleGetFunction, cuModuleGetFunction, (CUfunction * function, CUmodule module, const char *name))                \
  X(LaunchKernel, cuLaunchKernel,                                                                                      \
    (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,       \
     unsigned block_z, unsigned shared_bytes, CUstream stream, void **params, void **extra))                           \
  X(StreamWriteValue64, cuStreamWriteValue64_v2, (CUstream stream, CUdeviceptr at, uint64_t value, unsigned flags))    \
  X(StreamWaitValue64, cuStreamWaitValue64_v2, (CUstream stream, CUdeviceptr at, uint64_t value, unsigned flags))      \
  X(FuncSetAttribute, cuFuncSetAttribute, (CUfunction function, int attribute, int value))                             \
  X(BlocksAtOnce, cuOccupancyMaxActiveBlocksPerMultiprocessor,                                                         \
    (int *blocks, CUfunction function, int threads, size_t shared_bytes))                                              \
  X(GraphCreate, cuGraphCreate, (CUgraph * graph, unsigned flags))                                                     \
  X(GraphAddKernelNode, cuGraphAddKernelNode_v2,                                                                       \
    (CUgraphNode * node, CUgraph graph, const CUgraphNode *before, size_t count,                                       \
     const CUDA_KERNEL_NODE_PARAMS *params))                                                                           \
  X(GraphInstantiate, cuGraphInstantiateWithFlags, (CUgraphExec * exec, CUgraph graph, unsigned long long flags))      \
  X(GraphExecKernelNodeSetParams, cuGraphExecKernelNodeSetParams_v2,                                                   \
    (CUgraphExec exec, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *params))                                       \
  X(GraphLaunch, cuGraphLaunch, (CUgraphExec exec, CUstream stream))                                                   \
  X(GraphExecDestroy, cuGraphExecDestroy, (CUgraphExec exec))                                                          \
  X(GraphDestroy, cuGraphDestroy, (CUgraph graph))

/* What older drivers have not: NULL then. */
#define ML_CUDA_NEWER(X)                                                                                               \
  X(GraphAddDependencies, cuGraphAddDependencies_v2,                                                                   \
    (CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, const CUgraphEdgeData *data, size_t count))

typedef struct ml_cuda_driver {
  void *library;
#define X(name, symbol, parameters) CUresult(*name) parameters;
  ML_CUDA_ENTRIES(X)
  ML_CUDA_NEWER(X)
#undef X
} ml_cuda_driver;

/* Opens the driver and starts it. What there is none of, and why, is said in the error. */
ml_status ml_cuda_driver_open(ml_cuda_driver *d);
/* ML_OK, or a failure of `what` in the words of the driver: ML_MEMORY or ML_DEVICE. */
ml_status ml_cuda_check(const ml_cuda_driver *d, const char *device, const char *what, CUresult result);

#endif
