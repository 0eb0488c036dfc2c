/* daemon/documents.h - the documents that are known: what was put, by whom, under which recipe.
 *
 * A document is its tokens and its KV options; the entries are the scheduler's and the store's
 * business and are found by prefix_key. So a question on a document whose entries are gone is
 * answered too: the document is read again. With documents.dir each is a file there
 * (document_file.c), written beside its place, synced, renamed. Documents are immutable values with
 * references; the registry is sorted by namespace and id. Threads: any; one lock, held for look-ups
 * and copies of pointers only.
 */
#ifndef SC_DAEMON_DOCUMENTS_H
#define SC_DAEMON_DOCUMENTS_H

#include <stdatomic.h>

#include "daemon/app.h"
#include "daemon/keys.h"

#define SC_DOCUMENT_ID_MAX      128u
#define SC_DOCUMENT_TITLE_MAX   1024u
#define SC_DOCUMENT_FILE_MAX    ((size_t)1 << 30)
#define SC_DOCUMENT_OPTIONS_MAX 65536u /* packed KvOptions */
#define SC_DOCUMENT_PAGE_MAX    1000u

struct sc_document {
    atomic_uint refs;
    char id[SC_DOCUMENT_ID_MAX + 1];
    char ns[SC_NAMESPACE_BYTES_MAX + 1];
    char title[SC_DOCUMENT_TITLE_MAX + 1];
    uint64_t bytes;    /* of the text */
    uint32_t n_tokens; /* of these, n_prefix come before the text: begin of text */
    uint32_t n_prefix;
    int32_t *tokens;
    uint8_t *kv; /* packed KvOptions it was put with */
    size_t kv_bytes;
    struct sc_hash prefix_key, model;
    struct sc_receipt receipt; /* of the reading */
    int64_t created_us;        /* CLOCK_REALTIME */
    _Atomic(int64_t) used_us;
    _Atomic(int64_t) pinned_until_us; /* 0: not; INT64_MAX: until deleted */
};

struct sc_documents;

enum sc_status sc_documents_open(struct sc_app *app, struct sc_documents **ret_documents,
                                 struct sc_err *err) SC_MUST_CHECK;
void sc_documents_close(struct sc_documents *documents); /* NULL is fine */
uint32_t sc_documents_count(struct sc_documents *documents);

/* One reference, or NULL. */
struct sc_document *sc_documents_find(struct sc_documents *documents, const char *ns,
                                      const char *id);
void sc_document_unref(struct sc_document *document); /* NULL is fine */
/* Takes a reference of its own and writes the file. *ret_old: what was replaced (the caller's
 * reference), or NULL. SC_EEXIST unless replace; SC_EFULL: documents.max, documents.memory; SC_EIO:
 * the file could not be written (nothing was added). */
enum sc_status sc_documents_add(struct sc_documents *documents, struct sc_document *document,
                                bool replace, struct sc_document **ret_old,
                                struct sc_err *err) SC_MUST_CHECK;
/* True: one that is known has these entries. */
bool sc_documents_share(struct sc_documents *documents, const struct sc_hash *prefix_key);
/* Memory of texts that are being put; documents.memory bounds them and the documents together.
 * SC_EFULL. */
enum sc_status sc_documents_reserve(struct sc_documents *documents, uint64_t bytes,
                                    struct sc_err *err) SC_MUST_CHECK;
void sc_documents_release(struct sc_documents *documents, uint64_t bytes);
/* SC_ENOENT. ret_shared: another document has the same entries. */
enum sc_status sc_documents_remove(struct sc_documents *documents, const char *ns, const char *id,
                                   struct sc_document **ret_document, bool *ret_shared,
                                   struct sc_err *err) SC_MUST_CHECK;
/* Writes the file anew: a pin has changed. */
void sc_documents_save(struct sc_documents *documents, struct sc_document *document);
/* Up to max documents of the namespace, and of the shared one (NULL: none) where the namespace has
 * none of that id, whose ids come after `after`; by id; referenced. */
size_t sc_documents_list(struct sc_documents *documents, const char *ns, const char *shared_ns,
                         const char *after, struct sc_document **list, size_t max);

/* The same over all namespaces, after (ns, id). */
size_t sc_documents_walk(struct sc_documents *documents, const char *ns, const char *id,
                         struct sc_document **list, size_t max);

/* SC_EINVAL: 1..128 printable ASCII characters without blanks. */
enum sc_status sc_document_check_id(const char *id, struct sc_err *err) SC_MUST_CHECK;
/* Begin-of-text (if the tokenizer has one) and the text's tokens: what a prompt of this text and a
 * question behind it begins with. A document may be a stranger's: what spells a special token in
 * it, such as the end of a turn, stays text. */
enum sc_status sc_document_tokenize(const struct sc_model *model, const char *text, size_t len,
                                    struct sc_ids *ids, uint32_t *ret_n_prefix,
                                    struct sc_err *err) SC_MUST_CHECK;
int64_t sc_unix_us(void);

/* document_file.c: a document as bytes, with a version and a checksum. The caller frees *ret_bytes.
 */
enum sc_status sc_document_pack(const struct sc_document *document, uint8_t **ret_bytes,
                                size_t *ret_len, struct sc_err *err) SC_MUST_CHECK;
/* SC_EFORMAT: damaged, truncated, or of a later version. */
enum sc_status sc_document_unpack(const uint8_t *bytes, size_t len,
                                  struct sc_document **ret_document,
                                  struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_document_write(const char *dir, const struct sc_document *document,
                                 struct sc_err *err) SC_MUST_CHECK;
void sc_document_unlink(const char *dir, const struct sc_document *document);
/* Makes the directory if it is missing, and locks it as long as *ret_fd is open. SC_EEXIST: another
 * daemon has it; it would not know of what we put, nor we of what it deletes. */
enum sc_status sc_document_lock_dir(const char *dir, int *ret_fd, struct sc_err *err) SC_MUST_CHECK;
/* Calls fn for every document of the directory; what is not one is renamed to .bad, with a line. */
enum sc_status sc_document_read_dir(const char *dir,
                                    void (*fn)(void *ctx, struct sc_document *document), void *ctx,
                                    struct sc_err *err) SC_MUST_CHECK;

#endif
