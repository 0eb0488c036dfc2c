/* daemon/tsan.h - tells ThreadSanitizer what it cannot see inside the gRPC library.
 *
 * A tag given to grpc_call_start_batch comes out of grpc_completion_queue_next on another thread,
 * and the library, which is not instrumented, orders the two. Release before the start, acquire
 * after next.
 */
#ifndef SC_DAEMON_TSAN_H
#define SC_DAEMON_TSAN_H

#ifdef SC_TSAN
#include <sanitizer/tsan_interface.h>
#define SC_TAG_RELEASE(tag) __tsan_release(tag)
#define SC_TAG_ACQUIRE(tag) __tsan_acquire(tag)
#else
#define SC_TAG_RELEASE(tag) ((void)(tag))
#define SC_TAG_ACQUIRE(tag) ((void)(tag))
#endif

#endif
