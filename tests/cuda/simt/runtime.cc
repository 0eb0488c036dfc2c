/* tests/cuda/simt/runtime.cc - the CUDA runtime on this machine's processor: one device of compute
 * capability 8.0, or of 9.0 (hopper.h).
 *
 * What is put on a stream waits there until somebody waits for it: for the stream, for an event
 * behind it, or by freeing memory. So a host that reads too early, or reuses pinned memory too
 * early, is seen. SC_SIMT_ORDER=backward does everything at once instead. Between streams there is
 * no order but the host's.
 *
 * A thread whose stream records is refused what would spoil the recording on a device; and a copy
 * from or to the host ends the test: it would be made again of what lies there when the graph runs.
 */
#include <cuda_runtime.h>

#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include <stdlib.h>

#include "tests/cuda/simt/hopper.h"
#include "tests/cuda/simt/launch.h"
#include "tests/cuda/simt/memory.h"

using simt::fail;
using simt::keep;
using simt::place;
using work = std::function<void()>;

/* Odd, and few: blocks are slow here. */
static constexpr int MULTIPROCESSORS = 3;

struct sc_simt_graph {
    std::vector<work> nodes;
};

struct sc_simt_stream {
    std::deque<work> queue;
    uint64_t n_put, n_done;
    sc_simt_graph *recording; /* NULL: none */
};

struct sc_simt_event {
    sc_simt_stream *stream; /* NULL: never recorded */
    uint64_t behind;
    std::chrono::steady_clock::time_point when;
};

/* Of the process; held while kernels run, so launches of several ranks go one after the other. */
static std::recursive_mutex lock;
using locked = std::lock_guard<std::recursive_mutex>;

static std::set<sc_simt_stream *> &streams(void)
{
    static auto *all = new std::set<sc_simt_stream *>();
    return *all;
}

static thread_local cudaError_t last_error;
static thread_local unsigned recordings; /* that this thread has begun and not ended */
thread_local simt::site simt::next_site;

cudaError_t simt::keep(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

static bool at_once(void)
{
    static const char *order = getenv("SC_SIMT_ORDER");
    return order != NULL && strcmp(order, "backward") == 0;
}

/* ---- launches ---- */

static std::map<const void *, size_t> &allowed(void)
{
    static auto *all = new std::map<const void *, size_t>();
    return *all;
}

void simt::allow_shared(const void *kernel, size_t bytes)
{
    locked hold(lock);
    allowed()[kernel] = bytes;
}

cudaError_t simt::check_launch(const launch &l, const void *kernel)
{
    const uint64_t threads = (uint64_t)l.block.x * l.block.y * l.block.z;
    size_t most = SHARED_UNASKED;
    locked hold(lock);

    if (l.grid.x == 0 || l.grid.y == 0 || l.grid.z == 0 || l.grid.x > INT32_MAX ||
        l.grid.y > 65535 || l.grid.z > 65535 || threads == 0 || threads > BLOCK_MAX)
        return keep(cudaErrorInvalidConfiguration);
    const auto found = allowed().find(kernel);
    if (found != allowed().end() && found->second > most)
        most = found->second;
    return l.shared_bytes > most ? keep(cudaErrorInvalidValue) : cudaSuccess;
}

/* ---- streams ---- */

static void finish(sc_simt_stream *s, uint64_t n)
{
    simt::memory_watch();
    while (s->n_done < n) {
        const work next = std::move(s->queue.front());
        s->queue.pop_front();
        next();
        s->n_done++;
    }
}

void simt::enqueue(cudaStream_t s, std::function<void()> what)
{
    locked hold(lock);
    if (streams().count(s) == 0)
        fail("a stream that is not open");
    if (s->recording != NULL) {
        s->recording->nodes.push_back(std::move(what));
        return;
    }
    s->queue.push_back(std::move(what));
    s->n_put++;
    if (at_once())
        finish(s, s->n_put);
}

extern "C" cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    locked hold(lock);
    *stream = new sc_simt_stream();
    streams().insert(*stream);
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    locked hold(lock);
    if (s->recording != NULL)
        return keep(cudaErrorStreamCaptureUnsupported);
    finish(s, s->n_put);
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamQuery(cudaStream_t s)
{
    return cudaStreamSynchronize(s);
}

extern "C" cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    locked hold(lock);
    finish(s, s->n_put);
    streams().erase(s);
    delete s;
    return cudaSuccess;
}

/* What cudaFree waits for. */
static void finish_all(void)
{
    for (sc_simt_stream *s : streams())
        finish(s, s->n_put);
}

/* ---- memory ---- */

static cudaError_t take(void **mem, size_t bytes, place where)
{
    locked hold(lock);
    if (recordings != 0)
        return keep(cudaErrorStreamCaptureUnsupported);
    void *p = simt::memory_take(bytes, where);
    if (p == NULL)
        return keep(cudaErrorMemoryAllocation);
    *mem = p;
    return cudaSuccess;
}

static cudaError_t give(void *mem, place where)
{
    locked hold(lock);
    if (mem == NULL)
        return cudaSuccess;
    if (recordings != 0)
        return keep(cudaErrorStreamCaptureUnsupported);
    finish_all();
    return simt::memory_give(mem, where) ? cudaSuccess : keep(cudaErrorInvalidValue);
}

extern "C" cudaError_t cudaMalloc(void **mem, size_t bytes)
{
    return take(mem, bytes, place::device);
}

extern "C" cudaError_t cudaFree(void *mem)
{
    return give(mem, place::device);
}

extern "C" cudaError_t cudaHostAlloc(void **mem, size_t bytes, unsigned)
{
    return take(mem, bytes, place::pinned);
}

extern "C" cudaError_t cudaFreeHost(void *mem)
{
    return give(mem, place::pinned);
}

extern "C" cudaError_t cudaHostRegister(void *mem, size_t bytes, unsigned)
{
    locked hold(lock);
    return simt::memory_register(mem, bytes) ? cudaSuccess : keep(cudaErrorInvalidValue);
}

extern "C" cudaError_t cudaHostUnregister(void *mem)
{
    return mem == NULL ? keep(cudaErrorInvalidValue) : give(mem, place::registered);
}

extern "C" cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    locked hold(lock);
    *free_bytes = simt::memory_free();
    *total = simt::MEMORY_BYTES;
    return cudaSuccess;
}

/* What lies there; a device's piece must hold all the bytes. */
static place look(const void *mem, size_t bytes, bool device, const char *what)
{
    size_t left = 0;
    const place p = simt::memory_at(mem, &left);
    if (p != place::none && left < bytes)
        fail("%s: %zu bytes, %zu are there", what, bytes, left);
    if (device != (p == place::device))
        fail("%s: %p is %sdevice memory", what, mem, device ? "no " : "");
    return p;
}

extern "C" cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes,
                                       enum cudaMemcpyKind kind, cudaStream_t s)
{
    size_t left;
    locked hold(lock);
    const bool to_device = kind == cudaMemcpyDefault ? simt::memory_at(to, &left) == place::device
                                                     : kind != cudaMemcpyDeviceToHost;
    const bool from_device = kind == cudaMemcpyDefault
                                 ? simt::memory_at(from, &left) == place::device
                                 : kind != cudaMemcpyHostToDevice;
    const place a = look(to, bytes, to_device, "a copy's destination");
    const place b = look(from, bytes, from_device, "a copy's source");

    if (s->recording != NULL && !(to_device && from_device))
        fail("a copy from or to the host is recorded: %zu bytes", bytes);
    simt::enqueue(s, [=] { memmove(to, from, bytes); });
    /* Memory that is not pinned is the host's again when the call returns. */
    if (a == place::none || b == place::none)
        finish(s, s->n_put);
    return cudaSuccess;
}

/* To the device, as the plugin uses it: from there or from pinned memory. */
extern "C" cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from,
                                         size_t from_pitch, size_t width, size_t height,
                                         enum cudaMemcpyKind kind, cudaStream_t s)
{
    locked hold(lock);
    const bool from_device = kind != cudaMemcpyHostToDevice;
    if (width > to_pitch || width > from_pitch)
        return keep(cudaErrorInvalidValue);
    if (width == 0 || height == 0)
        return cudaSuccess;
    (void)look(to, (height - 1) * to_pitch + width, true, "a 2D copy's destination");
    if (look(from, (height - 1) * from_pitch + width, from_device, "a 2D copy's source") ==
        place::none)
        fail("a 2D copy from memory that is not pinned: %p", from);
    if (s->recording != NULL && !from_device)
        fail("a 2D copy from the host is recorded");
    simt::enqueue(s, [=] {
        for (size_t i = 0; i < height; i++)
            memmove((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
    });
    return cudaSuccess;
}

extern "C" cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s)
{
    locked hold(lock);
    (void)look(to, bytes, true, "memset");
    simt::enqueue(s, [=] { memset(to, value, bytes); });
    return cudaSuccess;
}

/* ---- events ---- */

extern "C" cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    *event = new sc_simt_event();
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    return cudaEventCreate(event);
}

extern "C" cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t s)
{
    locked hold(lock);
    if (s->recording != NULL)
        return keep(cudaErrorStreamCaptureUnsupported); /* no graph of ours has one */
    event->stream = s;
    event->behind = s->n_put;
    event->when = std::chrono::steady_clock::now();
    return cudaSuccess;
}

/* Nothing is done before somebody waits for it. */
extern "C" cudaError_t cudaEventQuery(cudaEvent_t event)
{
    locked hold(lock);
    if (recordings != 0)
        return keep(cudaErrorStreamCaptureUnsupported);
    const bool ready = event->stream == NULL || streams().count(event->stream) == 0 ||
                       event->stream->n_done >= event->behind;
    return ready ? cudaSuccess : keep(cudaErrorNotReady);
}

extern "C" cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    locked hold(lock);
    if (recordings != 0)
        return keep(cudaErrorStreamCaptureUnsupported);
    if (event->stream != NULL && streams().count(event->stream) != 0)
        finish(event->stream, event->behind);
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    *ms = std::chrono::duration<float, std::milli>(to->when - from->when).count();
    return cudaSuccess;
}

/* ---- graphs ---- */

extern "C" cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode)
{
    locked hold(lock);
    if (s->recording != NULL)
        return keep(cudaErrorStreamCaptureUnsupported);
    s->recording = new sc_simt_graph();
    recordings++;
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    locked hold(lock);
    if (s->recording == NULL)
        return keep(cudaErrorStreamCaptureInvalidated);
    *graph = s->recording;
    s->recording = NULL;
    recordings--;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                            unsigned long long)
{
    *exec = new sc_simt_graph(*graph);
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    locked hold(lock);
    finish_all();
    delete exec;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    locked hold(lock);
    simt::enqueue(s, [exec] {
        for (const work &node : exec->nodes)
            node();
    });
    return cudaSuccess;
}

/* ---- the device ---- */

extern "C" cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    if (device != 0)
        return keep(cudaErrorInvalidDevice);
    *prop = {"stand-in", simt::MEMORY_BYTES, (int)simt::compute_capability() / 10, 0,
             MULTIPROCESSORS};
    return cudaSuccess;
}

extern "C" cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int)
{
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? (int)simt::compute_capability() / 10
                                                            : (int)simt::shared_limit();
    return cudaSuccess;
}

extern "C" cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

extern "C" cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? cudaSuccess : keep(cudaErrorInvalidDevice);
}

extern "C" cudaError_t cudaDeviceCanAccessPeer(int *can, int, int)
{
    *can = 0;
    return cudaSuccess;
}

extern "C" cudaError_t cudaDeviceEnablePeerAccess(int, unsigned)
{
    return keep(cudaErrorInvalidDevice);
}

extern "C" cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

extern "C" const char *cudaGetErrorName(cudaError_t error)
{
    static const char *const names[] = {
        "cudaSuccess",
        "cudaErrorInvalidValue",
        "cudaErrorMemoryAllocation",
        "cudaErrorInvalidConfiguration",
        "cudaErrorInvalidDevice",
        "cudaErrorInvalidDeviceFunction",
        "cudaErrorInsufficientDriver",
        "cudaErrorNotReady",
        "cudaErrorPeerAccessAlreadyEnabled",
        "cudaErrorStreamCaptureUnsupported",
        "cudaErrorStreamCaptureInvalidated",
        "cudaErrorUnknown",
    };
    return names[error];
}

extern "C" const char *cudaGetErrorString(cudaError_t error)
{
    return cudaGetErrorName(error);
}
