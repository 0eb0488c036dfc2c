/* shard/chunker.h - where a sequence is cut into chunks: causal, from token ids alone.
 *
 * A token's class comes from its bytes, once, at load. Rules and reasons: docs/compression.md.
 * The end of a chunk depends on at most chunk_max + 1 tokens after its start, so a prefix always
 * gives the same chunks whatever follows. Threads: a table is read-only after open; the rest are
 * pure functions.
 */
#ifndef SC_SHARD_CHUNKER_H
#define SC_SHARD_CHUNKER_H

#include "model/tokenizer.h"
#include "shard/recipe.h"

/* Delimiter levels, strongest first. */
enum sc_delim { SC_DELIM_BLANK, SC_DELIM_SENTENCE, SC_DELIM_CLAUSE, SC_DELIM_WORD, SC_DELIM_NONE };

/* What the table keeps of a token: a level in the low bits, then flags. */
#define SC_TOKEN_LEVEL    0x0007u
#define SC_TOKEN_TURN     0x0008u /* a chat turn or the text ends here: always closes a chunk */
#define SC_TOKEN_SPECIAL  0x0010u /* stays exact */
#define SC_TOKEN_DIGIT    0x0020u /* starts with a digit */
#define SC_TOKEN_VETOABLE 0x0040u /* ends with . , or : - no delimiter before a digit */
#define SC_TOKEN_SPACE    0x0080u /* starts with a space */
#define SC_TOKEN_NL_ONLY                                                                           \
    0x0100u /* newlines and blanks only: after a newline it makes a blank line */
#define SC_TOKEN_NL_END 0x0200u /* ends in a newline */

struct sc_token_table;

/* vocab: number of ids that may occur (the model's). tok may be NULL: all tokens are SC_DELIM_NONE.
 */
enum sc_status sc_token_table_open(const struct sc_tokenizer *tok, uint32_t vocab,
                                   struct sc_token_table **ret_table,
                                   struct sc_err *err) SC_MUST_CHECK;
void sc_token_table_close(struct sc_token_table *table); /* NULL is fine */
uint16_t sc_token_table_get(const struct sc_token_table *table, int32_t id);

/* The class of a token from its bytes; what open uses for each id. */
uint16_t sc_token_classify(const char *bytes, size_t len, bool special);

/* End (exclusive) of the chunk that starts at start, or 0 while it is still open, judging by
 * tokens[0 .. n_visible). A chunk never crosses prompt_len. */
uint32_t sc_chunk_end(const struct sc_token_table *table, const struct sc_recipe *recipe,
                      const int32_t *tokens, uint32_t start, uint32_t n_visible,
                      uint32_t prompt_len);

#endif
