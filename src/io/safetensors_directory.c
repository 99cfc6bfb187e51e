/* safetensors_directory.c: the weights of a model directory, in one file or in shards. */
#include "io/checkpoint.h"
#include "io/json.h"
#include "io/names.h"

#include <stdio.h>
#include <string.h>

static bool ends_with(const char *text, const char *end) {
  size_t n = strlen(text), m = strlen(end);
  return n >= m && strcmp(text + n - m, end) == 0;
}

static char *join(const char *directory, const char *name) {
  size_t n = strlen(directory), size = n + strlen(name) + 2;
  char *path = ml_alloc(size);
  if (path) snprintf(path, size, "%s%s%s", directory, n > 0 && directory[n - 1] == '/' ? "" : "/", name);
  return path;
}

/* Moves what `from` holds to `into` and frees `from`. */
static ml_status merge(ml_checkpoint *into, ml_checkpoint *from) {
  ml_file **files = ml_realloc(into->files, into->n_files + from->n_files, sizeof *files);
  if (files) into->files = files;
  ml_entry *entries = ml_realloc(into->entries, into->n_entries + from->n_entries, sizeof *entries);
  if (entries) into->entries = entries;
  if (!files || !entries) {
    ml_checkpoint_close(from);
    return ML_MEMORY;
  }
  memcpy(files + into->n_files, from->files, from->n_files * sizeof *files);
  if (from->n_entries > 0) memcpy(entries + into->n_entries, from->entries, from->n_entries * sizeof *entries);
  into->n_files += from->n_files;
  into->n_entries += from->n_entries;
  from->n_files = from->n_entries = 0;
  if (into->n_meta == 0) {
    ml_free(into->meta);
    into->meta = from->meta;
    into->n_meta = from->n_meta;
    from->meta = NULL;
    from->n_meta = 0;
  }
  ml_checkpoint_close(from);
  return ML_OK;
}

static ml_status open_shards(const char *directory, const ml_names *shards, ml_checkpoint *into) {
  for (size_t i = 0; i < shards->count; i++) {
    char *path = join(directory, shards->items[i]);
    ml_checkpoint *shard;
    ml_status status = path ? ml_safetensors_open(path, &shard) : ML_MEMORY;
    ml_free(path);
    ML_TRY(status);
    ML_TRY(merge(into, shard));
  }
  return ml_checkpoint_sort(into);
}

/* A shard's name must not lead out of the directory. */
static ml_status collect_shards(const char *index, const ml_json *map, ml_names *shards) {
  if (ml_json_type(map) != ML_JSON_OBJECT) {
    return ml_fail(ML_CORRUPT, "%s: weight_map: expected an object, found %s", index,
                   ml_json_type_name(ml_json_type(map)));
  }
  const char *last = "";
  ml_json_iter iter = {0};
  while (ml_json_next(map, &iter)) {
    size_t size;
    const char *name = ml_json_string(iter.value, &size);
    if (!name || strlen(name) != size || !ends_with(name, ".safetensors") || name[0] == '.' || strpbrk(name, "/\\")) {
      return ml_fail(ML_CORRUPT,
                     "%s: weight_map: '%.200s': expected the plain name of a .safetensors file, found %s%.200s", index,
                     iter.key, name ? "" : ml_json_type_name(ml_json_type(iter.value)), name ? name : "");
    }
    if (strcmp(name, last) != 0) ML_TRY(ml_names_add(shards, name)); /* weights of a shard mostly stand together */
    last = name;
  }
  ml_names_sort(shards);
  return ML_OK;
}

static bool is_in_file(const ml_entry *entry, const char *name) {
  const char *slash = strrchr(entry->file->path, '/');
  return strcmp(slash ? slash + 1 : entry->file->path, name) == 0;
}

static ml_status check_map(const char *index, const ml_json *map, const ml_checkpoint *checkpoint) {
  ml_json_iter iter = {0};
  while (ml_json_next(map, &iter)) {
    const char *shard = ml_json_string(iter.value, NULL);
    const ml_entry *entry = ml_checkpoint_find(checkpoint, iter.key);
    if (!entry || !is_in_file(entry, shard)) {
      return ml_fail(ML_MISMATCH, "%s: weight_map: tensor '%.200s' is not in %.200s, which the index names", index,
                     iter.key, shard);
    }
  }
  for (size_t i = 0; i < checkpoint->n_entries; i++) {
    const ml_entry *entry = &checkpoint->entries[i];
    if (!ml_json_has(map, entry->name)) {
      return ml_fail(ML_MISMATCH, "%s: tensor '%.200s' is not in the weight_map of %s", entry->file->path, entry->name,
                     index);
    }
  }
  return ML_OK;
}

static ml_status open_index(const char *directory, const char *index, ml_checkpoint *into) {
  ml_json_doc *doc;
  ML_TRY(ml_json_load(index, &doc));
  const ml_json *map = ml_json_get(ml_json_root(doc), "weight_map");
  ml_names shards = {0};
  ml_status status = collect_shards(index, map, &shards);
  if (status == ML_OK) status = open_shards(directory, &shards, into);
  if (status == ML_OK) status = check_map(index, map, into);
  ml_names_free(&shards);
  ml_json_close(doc);
  return status;
}

/* Without an index: model*.safetensors, in the order of their names. */
static ml_status list_shards(const char *directory, ml_names *shards) {
  ml_names all = {0};
  ml_status status = ml_directory_names(directory, &all);
  for (size_t i = 0; status == ML_OK && i < all.count; i++) {
    const char *name = all.items[i];
    if (strncmp(name, "model", 5) == 0 && ends_with(name, ".safetensors")) status = ml_names_add(shards, name);
  }
  ml_names_free(&all);
  ML_TRY(status);
  if (shards->count > 0) return ML_OK;
  return ml_fail(ML_NOT_FOUND, "%s: expected model.safetensors, its index or model*.safetensors, found none",
                 directory);
}

static ml_status open_listed(const char *directory, ml_checkpoint *into) {
  ml_names shards = {0};
  ml_status status = list_shards(directory, &shards);
  if (status == ML_OK) status = open_shards(directory, &shards, into);
  ml_names_free(&shards);
  return status;
}

static ml_status open_sharded(const char *directory, const char *index, ml_checkpoint **out) {
  ml_checkpoint *checkpoint = ml_calloc(1, sizeof *checkpoint);
  if (!checkpoint) return ML_MEMORY;
  ml_status status =
      ml_path_exists(index) ? open_index(directory, index, checkpoint) : open_listed(directory, checkpoint);
  if (status == ML_OK) *out = checkpoint;
  else ml_checkpoint_close(checkpoint);
  return status;
}

ml_status ml_safetensors_open_directory(const char *directory, ml_checkpoint **out) {
  char *single = join(directory, "model.safetensors"), *index = join(directory, "model.safetensors.index.json");
  ml_status status = single && index ? ML_OK : ML_MEMORY;
  if (status == ML_OK) {
    status = ml_path_exists(single) ? ml_safetensors_open(single, out) : open_sharded(directory, index, out);
  }
  ml_free(single);
  ml_free(index);
  return status;
}
