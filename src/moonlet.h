/* moonlet.h: the public C interface of moonlet.
 *
 *   ml_engine *engine;
 *   ml_model *model;
 *   if (ml_engine_create(NULL, &engine) != ML_OK) return puts(ml_error_message()), 1;
 *   if (ml_model_load(engine, "model.gguf", NULL, &model) == ML_OK) {
 *     ml_generate_options options = {.struct_size = sizeof options, .prompt = "The moon", .max_tokens = 64};
 *     ml_generate(model, &options, show, NULL, NULL);
 *   }
 *   ml_engine_close(engine);
 *
 * Contract. Everything belongs to an engine; several engines may live in one process and do not see each other.
 *
 * Threads: an engine and its models are used by one thread at a time, whichever it is. A call that finds another thread
 * in the engine does nothing and is ML_USAGE; a close function then closes nothing, and is to be called again. Only
 * ml_cancel and ml_cancel_clear may be called from any thread, ml_cancel from a signal handler too. Different engines
 * may run at once.
 *
 * Processes: a fork takes the memory of an engine into the child, and none of its threads. There every call with an
 * engine of the parent, or a model of it, is ML_USAGE, and so is what a Lua state that loaded moonlet before the fork
 * computes; the close functions of engine and Lua state may be called and free the child's memory. If another thread
 * was in the engine when the fork came, ml_engine_close is ML_OK and frees nothing: no thread will ever finish what
 * that one had begun, and the memory is the child's until it ends. Engines that the child makes work.
 *
 * Errors: every call that can fail returns an ml_status. On failure the calling thread's error record
 * (ml_error_message) says what happened, what the call was to create does not exist, and its out parameter is NULL.
 * Memory that runs out is such a failure.
 *
 * Ownership: a handle is released with its close function, which accepts NULL; closing an engine closes its models and
 * sessions. What the library hands out as const belongs to it, for as long as the comment says. What a caller hands in
 * is needed until the call returns. Text is UTF-8.
 *
 * Options and results are structures whose first member is their size, set by the caller, so that later versions can
 * append members: {.struct_size = sizeof options, ...}. Of every option the value 0 means its default, and no options
 * at all (NULL) mean all defaults. Where 0 is a value as well, the structure has a member that says so. Structures
 * without a size that the library makes, tokens and rows, may grow too: they come as pointers, and are not to be copied
 * by size. Indices count from 0; where a message names the place of an entry in a list, it counts from 1.
 *
 * The library never prints, exits, aborts or installs a signal handler. */
#ifndef MOONLET_H
#define MOONLET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ML_VERSION "0.1.0"

#if defined(__GNUC__)
#define ML_API __attribute__((visibility("default")))
#else
#define ML_API
#endif

struct lua_State;

/* What a call came to. Names as scripts see them: ml_status_name. */
typedef enum ml_status {
  ML_OK = 0,
  ML_NOT_FOUND,   /* a path, tensor, key or token that is not there */
  ML_CORRUPT,     /* a file or value that breaks its own format */
  ML_UNSUPPORTED, /* well formed, but not something this build can do */
  ML_MISMATCH,    /* shapes, dtypes, models or files that do not fit each other */
  ML_USAGE,       /* a call with wrong arguments, a model family's file with a mistake in it */
  ML_MEMORY,      /* the system refused memory */
  ML_CANCELLED,   /* a cancel flag was raised */
  ML_DEADLINE,    /* a deadline passed */
  ML_DEVICE,      /* a device failed or is absent */
  ML_IO,          /* the system refused a read or a write */
  ML_LIMIT,       /* a limit of ours was hit: memory limit, context length, template steps */
  ML_STATUS_COUNT
} ml_status;

/* The name of a status as scripts see it: "not_found", "corrupt", ... Never NULL. */
ML_API const char *ml_status_name(ml_status status);

/* The text of the calling thread's last failure; "" when there was none, or when a call that returns a status has
 * succeeded since. Valid until this thread's next call. */
ML_API const char *ml_error_message(void);

/* The version of the library, which may be newer than ML_VERSION of the header: "0.1.0". */
ML_API const char *ml_version(void);

/* ---- engines ---- */

typedef struct ml_engine ml_engine;

typedef struct ml_engine_options {
  size_t struct_size;
  int threads;               /* threads that compute, the caller's among them; 0: one a processor */
  const char *isa;           /* "ref", "avx2", "avx512"; NULL: what $MOONLET_ISA says, else the best there is */
  size_t memory_limit_bytes; /* of tensor storage, models included; more is an error, ML_LIMIT; 0: none */
} ml_engine_options;

/* Makes an engine with threads, memory counters, limits and a cancel flag of its own. */
ML_API ml_status ml_engine_create(const ml_engine_options *options, ml_engine **out);

/* Closes the engine's models, ends its threads and frees all its memory. While a call runs in it (another thread's, or
 * the one that called back) it stays open, and this is ML_USAGE: ml_cancel, wait for the call's end, close again. */
ML_API ml_status ml_engine_close(ml_engine *engine);

typedef struct ml_memory_info {
  size_t struct_size;
  size_t active_bytes; /* tensor storage in use */
  size_t peak_bytes;   /* the most that was in use at once */
  size_t cached_bytes; /* freed, and kept for the next request */
  size_t limit_bytes;  /* 0: none */
} ml_memory_info;

/* Counters of the engine's default device. */
ML_API ml_status ml_engine_memory(const ml_engine *engine, ml_memory_info *out);

/* ---- cancellation ---- */

/* Raises the engine's cancel flag. The call that runs ends soon: ml_generate with finish reason "cancelled", others
 * with ML_CANCELLED; its end takes the flag down. A flag that is raised while nothing runs, or too late for what runs,
 * ends the next call: ml_cancel_clear before it makes it start afresh. Any thread and any signal handler may call this,
 * as long as the engine exists. */
ML_API void ml_cancel(ml_engine *engine);
/* Takes the flag down; true when it was up. */
ML_API bool ml_cancel_clear(ml_engine *engine);

/* ---- models ---- */

typedef struct ml_model ml_model;

/* Called while a model loads, with the fraction that is done (0 to 1); false cancels. */
typedef bool (*ml_progress)(void *context, double fraction);

typedef struct ml_load_options {
  size_t struct_size;
  const char *precision; /* "fast": activations are rounded to 8-bit blocks against quantised weights; "exact": they
                          * stay float32; NULL: "fast" */
  int64_t max_context;   /* tokens; 0: as many as the model was made for */
  int threads;           /* changes the engine's number of threads; 0: leaves it */
  bool strict;           /* a key of the configuration that nobody reads is an error, not a warning */
  const char *family;    /* a Lua file or module to use instead of the family that the model names; NULL: that one */
  int64_t random;        /* not 0: a seed; weights are made up at true shapes, and only the configuration is read */
  ml_progress progress;  /* may be NULL */
  void *progress_context;
  const char *share; /* a token of ml_model_share: the weights of that model are used, which were made with the same
                      * precision; the path may be NULL, for that model's own; NULL: none */
} ml_load_options;

/* Loads a model: a directory with config.json, a .gguf file, or a name org/model present in the local Hugging Face
 * cache. Files are not needed afterwards. */
ML_API ml_status ml_model_load(ml_engine *engine, const char *path, const ml_load_options *options, ml_model **out);

/* Frees the model, and what its sessions hold. While it generates, in a callback, the call then fails, with ML_USAGE
 * and the finish reason "error"; until that call returns, what is asked of the closed model is ML_USAGE too. */
ML_API void ml_model_close(ml_model *model);

/* Lets other engines of this process load models with this one's weights, in whatever thread, as long as this model is
 * open; the token is valid as long. The weights count where they were loaded, are freed with the last model that has
 * them, and are never written. */
ML_API ml_status ml_model_share(ml_model *model, const char **token);

typedef struct ml_model_info {
  size_t struct_size;
  const char *model_type;   /* as the file says: "llama" */
  const char *family;       /* the family that serves it */
  const char *quantization; /* the weights' most common block format, "q4_k"; "" when there is none */
  const char *warnings;     /* one a line; "" when there is none */
  int64_t layers, hidden_size, vocab_size, parameters;
  int64_t context;     /* the most tokens that it holds */
  size_t weight_bytes; /* as they lie in memory */
  bool has_tokenizer;  /* without one, lists of ids are the only prompts */
} ml_model_info;

/* What the model is. The texts are valid until it is closed. */
ML_API ml_status ml_model_describe(ml_model *model, ml_model_info *out);

/* ---- text ---- */

enum {
  ML_NO_SPECIAL_TOKENS = 1,  /* ml_tokenize adds no begin or end tokens */
  ML_NO_PARSE_SPECIAL = 2,   /* ml_tokenize takes the text of special tokens for ordinary text */
  ML_SKIP_SPECIAL_TOKENS = 4 /* ml_detokenize leaves special tokens out */
};

/* Ids of `length` bytes of text. Writes at most `capacity` of them; *count is how many there are, so that a second call
 * with room for them gives all. `ids` may be NULL when capacity is 0. Flags: ML_NO_... */
ML_API ml_status ml_tokenize(ml_model *model, const char *text, size_t length, unsigned flags, int32_t *ids,
                             size_t capacity, size_t *count);

/* Text of `count` ids, with a 0 behind it; an id from 0 that the vocabulary has not has no text. Writes at most
 * `capacity` bytes, the 0 included; *length is what the whole text has, without the 0. `text` may be NULL when capacity
 * is 0. Flags: ML_SKIP_SPECIAL_TOKENS */
ML_API ml_status ml_detokenize(ml_model *model, const int32_t *ids, size_t count, unsigned flags, char *text,
                               size_t capacity, size_t *length);

/* ---- generation ---- */

typedef struct ml_message {
  const char *role; /* "system", "user", "assistant", as the model's template knows them */
  const char *content;
} ml_message;

/* A token and the natural logarithm of its probability, which is the model's own: before temperature, penalties and
 * whatever else chooses among tokens. */
typedef struct ml_logprob {
  int32_t id;
  double logprob;
} ml_logprob;

typedef struct ml_logit_bias {
  int32_t id;
  double bias; /* is added to its logit; -INFINITY: never */
} ml_logit_bias;

/* Options of which 0 can be meant as a value: ml_generate_options.zeros. */
enum {
  ML_ZERO_MAX_TOKENS = 1,     /* nothing is generated */
  ML_ZERO_TEMPERATURE = 2,    /* the likeliest token, whatever the model's files recommend */
  ML_ZERO_TOP_K = 4,          /* all tokens, whatever the model's files recommend */
  ML_ZERO_TOP_P = 8,          /* the likeliest token alone */
  ML_ZERO_MIN_P = 16,         /* all tokens, whatever the model's files recommend */
  ML_ZERO_REPEAT_LAST_N = 32, /* no id counts as recent: no penalties */
  ML_ZERO_SEED = 64,          /* the seed 0 */
  ML_ZERO_LOGPROBS = 128,     /* log probabilities of the chosen tokens alone */
  ML_ZERO_XTC_THRESHOLD = 256 /* every token is likely enough */
};

typedef struct ml_generate_options {
  size_t struct_size;
  /* What to continue, one of the three. Texts end with a 0. */
  const char *prompt; /* text, encoded as the tokenizer does it by default */
  const int32_t *ids; /* or ids, as they are */
  size_t n_ids;
  const ml_message *messages; /* or a conversation to answer, through the model's own chat template */
  size_t n_messages;

  int64_t max_tokens; /* 0: 256 */
  double temperature; /* 0: the likeliest token, always; the next three do nothing then */
  int64_t top_k;      /* the likeliest so many; 0: all */
  double top_p;       /* the likeliest with at most this probability before them; 1: all. 0: not given, which is 1; with
                       * ML_ZERO_TOP_P in `zeros` it is the value 0, the likeliest token alone */
  double min_p;       /* those at least so many times as likely as the likeliest; 0: all */
  double repeat_penalty; /* logits of recent ids are divided (negative ones multiplied) by it; 0: 1, none */
  double presence_penalty, frequency_penalty;
  int64_t repeat_last_n;   /* how many recent ids, the prompt's too; 0: 64 */
  int64_t seed;            /* the same seed gives the same text; 0: another one each time */
  const char *const *stop; /* texts that end the answer and are no part of it */
  size_t n_stop;
  const int32_t *stop_tokens; /* ids that do so, besides the model's own */
  size_t n_stop_tokens;
  double deadline_seconds; /* 0: none */
  bool ignore_eos;         /* the model's own end tokens do not end the answer */
  bool model_defaults;     /* for messages: sampling options that are 0 are as the model's files recommend, which a
                            * temperature here asks to sample where they would not */
  uint64_t zeros;          /* ML_ZERO_...: of these options 0 is meant, and not their default */
  int64_t logprobs;        /* log probabilities with each token: its own, and those of the likeliest so many; 0: none,
                            * unless ML_ZERO_LOGPROBS in `zeros` asks for its own alone */
  double xtc_probability;  /* how often the tokens above a threshold are left out, all but the least likely of them */
  double xtc_threshold;    /* at least so likely is above it; 0: 0.1 */
  const ml_logit_bias *logit_bias;
  size_t n_logit_bias;
  /* For messages: */
  const char *chat_template;   /* a template's name or text; NULL: the model's own */
  const char *tools;           /* JSON: an array of objects, as the template wants them */
  const char *documents;       /* JSON: an array of objects with title and text */
  const char *template_vars;   /* JSON: an object of further variables of the template */
  const char *now;             /* the template's date, ISO 8601; NULL: today */
  bool continue_final_message; /* the answer goes on with the last message */
  bool parse_special;          /* the text of special tokens in a message's content stands for them */
} ml_generate_options;

/* A token as the callback sees it; valid until the callback returns. */
typedef struct ml_token {
  const char *text;  /* what it completes, whole characters, perhaps ""; NULL when the model has no tokenizer */
  size_t text_bytes; /* text ends with a 0 besides */
  int32_t id;
  int64_t index;                  /* 1 for the first */
  double logprob;                 /* a NaN where it was not asked for, or the token only completes the text at an end */
  const ml_logprob *top_logprobs; /* of the likeliest, those first */
  size_t n_top_logprobs;
} ml_token;

/* Called with each token; false ends the generation. It may call functions of the same engine, ml_generate too, but not
 * ml_engine_close; it must return (no longjmp, no exception). */
typedef bool (*ml_token_callback)(void *context, const ml_token *token);

typedef enum ml_finish {
  ML_FINISH_NONE = 0,  /* nothing was generated */
  ML_FINISH_STOP,      /* an end token or a stop text */
  ML_FINISH_LENGTH,    /* max_tokens, or a full context */
  ML_FINISH_CANCELLED, /* ml_cancel, or the callback's wish */
  ML_FINISH_DEADLINE,
  ML_FINISH_ERROR
} ml_finish;

/* "stop", "length", ... as scripts see it; "none". Never NULL. */
ML_API const char *ml_finish_name(ml_finish reason);

typedef struct ml_metrics {
  size_t struct_size;
  ml_finish finish_reason;
  int64_t prompt_tokens, cached_tokens, generated_tokens; /* cached: prompt tokens that needed no computation */
  double prefill_seconds, decode_seconds, total_seconds;
  double prefill_tokens_per_second, decode_tokens_per_second;
  size_t peak_bytes, active_bytes; /* of the engine's device, at the end */
} ml_metrics;

/* Continues a prompt or answers a conversation, token by token. `callback` and `metrics` may be NULL. Cancellation,
 * deadline and a callback that has had enough end it normally: ML_OK, and the finish reason says which. `metrics` is
 * filled, as far as it came, after an error too. Logits that hold a NaN, or nothing but -inf, are an error: ML_CORRUPT
 * where the model gives them, ML_USAGE where the sampling options leave them. */
ML_API ml_status ml_generate(ml_model *model, const ml_generate_options *options, ml_token_callback callback,
                             void *context, ml_metrics *metrics);

/* ---- sessions ---- */

/* A conversation, or a text, that keeps its cache from turn to turn: only what is new is computed. */
typedef struct ml_session ml_session;

typedef struct ml_session_options {
  size_t struct_size;
  const char *system;         /* what the system says to begin with; NULL: nothing */
  const ml_message *messages; /* a conversation to go on with, behind it */
  size_t n_messages;
  bool forget;               /* a conversation that the context no longer holds loses its oldest turns, never what the
                              * system says, where it would be ML_LIMIT otherwise */
  const char *chat_template; /* a template's name or text; NULL: the model's own */
  const char *tools;         /* JSON: an array of objects, as the template wants them */
  const char *documents;     /* JSON: an array of objects with title and text */
  const char *template_vars; /* JSON: an object of further variables of the template */
  const char *now;           /* the template's date, ISO 8601; NULL: today */
} ml_session_options;

ML_API ml_status ml_session_open(ml_model *model, const ml_session_options *options, ml_session **out);

/* Frees the session. An answer that is on its way, in a callback, ends then, as cancelled. Where the model is closed,
 * all other calls are ML_USAGE; the handle is still to be closed, or goes with the engine. */
ML_API void ml_session_close(ml_session *session);

/* Adds what a user says, and answers through the chat template, as ml_generate does; `options` name no prompt, and
 * leave template, tools and the like to the session's. The answer becomes part of the conversation when it ends, as far
 * as it came; a turn that failed, or was cancelled before any text came, is taken back. */
ML_API ml_status ml_session_send(ml_session *session, const char *text, const ml_generate_options *options,
                                 ml_token_callback callback, void *context, ml_metrics *metrics);

/* Goes on behind what the session holds, without a template: `prompt` or `ids` of the options are put there as they are
 * (a text gets special tokens at the session's beginning alone; no ids at all, n_ids 0, let it just go on). */
ML_API ml_status ml_session_generate(ml_session *session, const ml_generate_options *options,
                                     ml_token_callback callback, void *context, ml_metrics *metrics);

/* These end an answer that is on its way in a callback, as cancelled, and act on what it came to.
 *
 * Another session that goes on from here on its own. Nothing is copied until one of the two writes. */
ML_API ml_status ml_session_fork(ml_session *session, ml_session **out);
/* Keeps the first so many tokens; the messages stay, and the next ml_session_send computes again what they need. */
ML_API ml_status ml_session_trim(ml_session *session, int64_t tokens);
/* Takes back the last turn: what the user said, and all behind it. ML_NOT_FOUND where there is none. */
ML_API ml_status ml_session_undo(ml_session *session);
/* Writes tokens, messages and cache to a file, which a session of the same model can go on with. */
ML_API ml_status ml_session_save(ml_session *session, const char *path);
/* Goes on with a saved session. ML_MISMATCH where model or tokenizer is another; after a failure the session is as it
 * was. */
ML_API ml_status ml_session_load(ml_session *session, const char *path);

typedef struct ml_session_info {
  size_t struct_size;
  int64_t length;    /* tokens so far; the cache gets the last with the next turn */
  size_t n_messages; /* of the conversation as it stands */
  int64_t forgotten; /* turns that have left it, with the option `forget` */
} ml_session_info;

ML_API ml_status ml_session_describe(ml_session *session, ml_session_info *out);
/* The session's tokens, as ml_tokenize gives ids. */
ML_API ml_status ml_session_tokens(ml_session *session, int32_t *ids, size_t capacity, size_t *count);
/* A message of the conversation, from 0; content is "" where it is no text. The texts are valid until the session is
 * used again. */
ML_API ml_status ml_session_message(ml_session *session, size_t index, ml_message *out);

/* ---- batches ---- */

/* What became of one request. */
typedef struct ml_batch_row {
  size_t index;        /* its place among the requests */
  ml_status status;    /* an error of this row alone: its request is wrong, or its memory has run out */
  const char *message; /* the error's text, or "" */
  const char *text;    /* the whole answer; "" when the model has no tokenizer */
  size_t text_bytes;
  const int32_t *ids; /* its tokens */
  size_t n_ids;
  const double *logprobs;         /* of each, (n_ids), where they were asked for, else NULL */
  const ml_logprob *top_logprobs; /* of the likeliest in its place, those first, (n_ids, n_top_logprobs) */
  size_t n_top_logprobs;
  const ml_metrics *metrics; /* its finish reason, tokens and times, in which other rows' work is contained */
} ml_batch_row;

typedef struct ml_batch {
  size_t n_rows;
  const ml_batch_row *const *rows; /* in the requests' order */
} ml_batch;

/* Called with each token of each row; false ends the row, as cancelled, and the others go on. What an ml_token_callback
 * may do, these may. */
typedef bool (*ml_batch_token_callback)(void *context, size_t index, const ml_token *token);
/* Called with each row when it ends, in the order in which they do; false ends all others, as cancelled. */
typedef bool (*ml_batch_row_callback)(void *context, const ml_batch_row *row);

typedef struct ml_batch_options {
  size_t struct_size;
  int64_t slots; /* rows at once; when one ends the next request takes its place; 0: 8 */
  ml_batch_token_callback on_token;
  ml_batch_row_callback on_row; /* each may be NULL */
  void *context;
} ml_batch_options;

/* Continues or answers many prompts at once: an array of options as ml_generate takes them, of one struct_size. Each
 * gives what it gives alone (with precision "exact", bit for bit). What is wrong with a value of a request, or what its
 * row meets, ends that row with an error of its own; a request that names no prompt or a NULL is ML_USAGE for all.
 * Cancellation ends all rows, as cancelled: ML_OK. Rows live until `*out` is closed (`out` NULL: until on_row returns),
 * whatever becomes of the model. `metrics` (or NULL) has of all rows the tokens' sums, the whole time and the tokens
 * generated in a second of it; its finish reason is "stop", or "cancelled". */
ML_API ml_status ml_batch_generate(ml_model *model, const ml_generate_options *requests, size_t n_requests,
                                   const ml_batch_options *options, ml_batch **out, ml_metrics *metrics);
ML_API void ml_batch_close(ml_batch *batch);

/* ---- whole texts: how likely, what they are, where they lie ---- */

/* These calls generate nothing: of their metrics, which may be NULL, prompt_tokens is what was asked for, cached_tokens
 * what of it was computed once for several. */

/* A text, one of the three. */
typedef struct ml_prompt {
  const char *text; /* encoded as the tokenizer does it by default */
  const int32_t *ids;
  size_t n_ids;
  const ml_message *messages; /* through the chat template, with the answer's header behind them */
  size_t n_messages;
} ml_prompt;

/* The model's logits behind each id: (n_ids, vocab_size). `capacity` is the room in floats; less than that is
 * ML_USAGE. */
ML_API ml_status ml_logits(ml_model *model, const int32_t *ids, size_t n_ids, float *logits, size_t capacity,
                           ml_metrics *metrics);

typedef struct ml_likelihood {
  double logprob; /* the sum of its tokens' natural log probabilities */
  int64_t tokens;
  bool greedy; /* each of them is the likeliest */
} ml_likelihood;

/* How likely continuations are behind a prefix, which is computed once: likelihoods (n_continuations). Continuations
 * are texts (without special tokens) or ids. */
ML_API ml_status ml_score(ml_model *model, const ml_prompt *prefix, const ml_prompt *continuations,
                          size_t n_continuations, ml_likelihood *likelihoods, ml_metrics *metrics);

typedef struct ml_perplexity_options {
  size_t struct_size;
  int64_t context;    /* tokens that are looked at together; 0: 512, at most the model's own */
  int64_t stride;     /* how far the next such window lies; it predicts what none before it held; 0: context */
  int64_t max_tokens; /* to predict; 0: all */
} ml_perplexity_options;

typedef struct ml_perplexity_info {
  size_t struct_size;
  double nll;        /* the mean of minus the natural log probabilities */
  double perplexity; /* exp(nll) */
  int64_t tokens;    /* that were predicted */
} ml_perplexity_info;

/* How likely a text is. Log probabilities of its predicted tokens, the second and those behind it, are written to
 * `logprobs`, at most `capacity` of them; NULL when capacity is 0. */
ML_API ml_status ml_perplexity(ml_model *model, const ml_prompt *text, const ml_perplexity_options *options,
                               double *logprobs, size_t capacity, ml_perplexity_info *out, ml_metrics *metrics);

typedef struct ml_classify_options {
  size_t struct_size;
  const char *text_template; /* what is asked, with {text} where a text stands; NULL: the text alone */
  int64_t batch_size;        /* how many texts at most run together; 0: as many as fit */
  bool truncate;             /* what is too long loses its beginning, where it would be ML_LIMIT otherwise */
  ml_progress progress;      /* may be NULL */
  void *progress_context;
} ml_classify_options;

typedef struct ml_class {
  int32_t label;      /* the likeliest: its place among the labels; without labels the next token's id */
  double probability; /* among the labels; without labels, among all tokens */
} ml_class;

/* What each text is, by how likely each label is to follow it: classes (n_texts). Log probabilities of all labels,
 * among them, are written to `logprobs` (n_texts, n_labels), which may be NULL. n_labels 0: the likeliest next
 * token. */
ML_API ml_status ml_classify(ml_model *model, const ml_prompt *texts, size_t n_texts, const char *const *labels,
                             size_t n_labels, const ml_classify_options *options, ml_class *classes, double *logprobs,
                             ml_metrics *metrics);

typedef struct ml_embed_options {
  size_t struct_size;
  const char *pooling; /* "mean" of all tokens, "last", or "cls", the first; NULL: "mean" */
  bool normalize;      /* to length 1 */
  bool truncate;       /* what is too long loses its beginning, where it would be ML_LIMIT otherwise */
  int64_t batch_size;  /* how many texts at most run together; 0: as many as fit */
} ml_embed_options;

/* What stands for each text among the states that the model's head is applied to: vectors (n_texts, hidden_size).
 * `capacity` is the room in floats; less than that is ML_USAGE. */
ML_API ml_status ml_embed(ml_model *model, const ml_prompt *texts, size_t n_texts, const ml_embed_options *options,
                          float *vectors, size_t capacity, ml_metrics *metrics);

/* ---- for hosts that bring their own Lua 5.4 ---- */

/* Opens the module in a Lua state: luaL_requiref(L, "moonlet", luaopen_moonlet, 0). It needs the standard libraries
 * package, string, table, math, io, os, coroutine and utf8. The state has an engine of its own from now on, which is
 * freed with the state; the state's panic function, hooks and collector mode stay as they are. */
ML_API int luaopen_moonlet(struct lua_State *L);
/* The C part alone, which Lua's own loader finds in moonlet.so for `require "moonlet.core"`. */
ML_API int luaopen_moonlet_core(struct lua_State *L);
/* The engine of a state that has loaded moonlet; it lives as long as the state and is not to be closed. Raises a Lua
 * error when there is none. */
ML_API ml_engine *ml_lua_engine(struct lua_State *L);

#ifdef __cplusplus
}
#endif
#endif
