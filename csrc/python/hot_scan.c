/* hot_scan.c - Scan: iterate over a range of a snapshot, in batches. See hot.h.
 *
 *   snapshot._scan(start, stop, reverse, items)  ->  Scan  --next-->  path, path, ...   or   (path, value), ...
 *   items: 0 paths alone, 1 values as bytes, 2 values as bytes, or as memoryviews where that saves a copy
 *
 *   fill       one walk over the next leaves under the mutex: paths become str at once, values stay where they are;
 *              then the values, one after the other, while the entries of the next few come near
 *   else       _scan_slowly(start, stop, reverse, items) -> (paths, values or None, more): a batch through cffi, which brings
 *              from L2 what is missing
 *
 * A value that is large or encoded is loaded when it is asked for, by attachment.load_value (load_buffer); the values of a batch that only L2
 * has, together when the first of them is, by attachment.load_values.
 *
 * Invariants. found[at..count) is what was read and not given out yet; start and stop bound what was not read yet; batches grow
 * from BATCH_FIRST to BATCH_MAX, so that who wants one path pays for few. */
#include "hot.h"
#include "../hs_blake3.h"
#include "../hs_read.h"

#define BATCH_FIRST      32u
#define BATCH_MAX        512u
#define BATCH_VALUES_MAX (256u << 10) /* bytes of values in a batch, but for the last one's */
#define AHEAD            6u           /* entries fetched ahead of the one that is being copied */

typedef struct found_entry {
    PyObject *path;
    PyObject *value; /* bytes; if not `here`, the id of a value that is to be loaded */
    hs_value from;   /* while the mutex is held; its size stays good */
    bool here;
    bool in_l2; /* L1 did not have it */
} found_entry;

typedef struct hot_scan {
    PyObject_HEAD hot_snapshot *snapshot;
    PyObject *start, *stop; /* bytes; stop NULL: no bound */
    found_entry *found;
    uint32_t room, count, at;
    hs_call *call; /* while a batch is filled, and the bytes of the values in it */
    uint64_t value_bytes;
    bool reverse;
    int items;
    bool more; /* the range may have more than what was found */
    bool busy; /* a fill is under way, which may run Python code */
} hot_scan;

#define BUFFERS 2

static PyObject *name_scan_slowly, *name_load_value, *name_load_buffer, *name_load_values;

static void drop_found(hot_scan *self) {
    for (; self->at < self->count; self->at++) {
        Py_CLEAR(self->found[self->at].path);
        Py_CLEAR(self->found[self->at].value);
    }
    self->at = self->count = 0;
}

static bool make_room(hot_scan *self, size_t room) {
    if (self->room >= room) return true;
    found_entry *found = PyMem_Realloc(self->found, room * sizeof *found);
    if (found == NULL) return false;
    self->found = found;
    self->room = (uint32_t)room;
    return true;
}

/* --- filling a batch --- */

static bool see(void *context, const uint8_t *key, size_t key_size, const hs_value *value) {
    hot_scan *self = context;
    if (self->count == self->room || self->value_bytes >= BATCH_VALUES_MAX) {
        self->more = true;
        return false;
    }
    PyObject *path = PyUnicode_DecodeUTF8((const char *)key, (Py_ssize_t)key_size, NULL);
    if (path == NULL) return false;
    self->found[self->count++] = (found_entry){.path = path, .from = *value};
    if (self->items) {
        self->value_bytes += value->size;
        if (value->hashed) hs_read_expect(self->call->engine, value);
    }
    return true;
}

static bool value_take(found_entry *entry, hs_call *call) {
    size_t size = (size_t)entry->from.size;
    if (size <= HOT_VALUE_SIZE_MAX) {
        entry->value = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
        if (entry->value == NULL) return false;
        uint8_t *to = (uint8_t *)PyBytes_AS_STRING(entry->value);
        int64_t got = hs_read_value(call, &entry->from, to, size);
        entry->here = got == (int64_t)size;
        entry->in_l2 = got == HS_MISSING;
        if (entry->here) return true;
        Py_CLEAR(entry->value);
    }
    entry->value = PyBytes_FromStringAndSize((const char *)entry->from.bytes, HS_HASH_SIZE);
    return entry->value != NULL;
}

static bool values_take(hot_scan *self) {
    for (uint32_t i = 0; i < self->count; i++) {
        if (i + AHEAD < self->count && self->found[i + AHEAD].from.hashed)
            hs_read_ahead(self->call->engine, &self->found[i + AHEAD].from);
        if (!value_take(&self->found[i], self->call)) return false;
    }
    return true;
}

/* Go on behind (before, in reverse) the last path. */
static bool bound_move(hot_scan *self) {
    Py_ssize_t size;
    const char *last = PyUnicode_AsUTF8AndSize(self->found[self->count - 1].path, &size);
    if (last == NULL) return false;
    PyObject *bound = PyBytes_FromStringAndSize(last, self->reverse ? size : size + 1); /* ends in a 0 */
    if (bound == NULL) return false;
    if (self->reverse)
        Py_XSETREF(self->stop, bound);
    else
        Py_SETREF(self->start, bound);
    return true;
}

/* False, with nothing found and perhaps an exception: the other way. */
static bool fill(hot_scan *self) {
    const uint8_t *root = hot_root(self->snapshot);
    hs_call *call = root == NULL ? NULL : hot_peek_call(self->snapshot->attachment);
    hot_lock lock;
    if (call == NULL || !hot_try_lock(&lock, call->engine)) return false;
    hs_range range = {.start = (const uint8_t *)PyBytes_AS_STRING(self->start),
                      .start_size = (size_t)PyBytes_GET_SIZE(self->start)};
    if (self->stop != NULL) {
        range.stop = (const uint8_t *)PyBytes_AS_STRING(self->stop);
        range.stop_size = (size_t)PyBytes_GET_SIZE(self->stop);
    }
    self->call = call;
    self->more = false;
    self->value_bytes = 0;
    int status = hs_read_scan(call, root, &range, self->reverse, see, self);
    bool whole = !PyErr_Occurred() && (!self->items || values_take(self));
    hot_unlock(&lock);
    if (status == HS_MISSING && self->count > 0) {
        status = HS_OK;
        self->more = true;
    }
    if (whole && status == HS_OK && (self->count == 0 || bound_move(self))) return true;
    drop_found(self);
    return false;
}

/* What _scan_slowly returned. */
static bool take_batch(hot_scan *self, PyObject *batch) {
    PyObject *paths, *values;
    int more;
    if (!PyTuple_Check(batch)) {
        PyErr_SetString(PyExc_TypeError, "_scan_slowly returns (paths, values, more)");
        return false;
    }
    if (!PyArg_ParseTuple(batch, "O!Op", &PyList_Type, &paths, &values, &more)) return false;
    Py_ssize_t count = PyList_GET_SIZE(paths);
    if (self->items && (!PyList_Check(values) || PyList_GET_SIZE(values) != count)) {
        PyErr_SetString(PyExc_TypeError, "_scan_slowly returns a value for each path");
        return false;
    }
    if (!make_room(self, (size_t)count)) {
        PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        self->found[self->count++] =
            (found_entry){.path = Py_NewRef(PyList_GET_ITEM(paths, i)),
                          .value = self->items ? Py_NewRef(PyList_GET_ITEM(values, i)) : NULL,
                          .here = true};
    self->more = more;
    return count == 0 || bound_move(self);
}

static bool fill_slowly(hot_scan *self) {
    PyErr_Clear();
    PyObject *items = PyLong_FromLong(self->items), *batch = NULL;
    if (items != NULL)
        batch = PyObject_CallMethodObjArgs((PyObject *)self->snapshot, name_scan_slowly, self->start,
                                           self->stop == NULL ? Py_None : self->stop,
                                           self->reverse ? Py_True : Py_False, items, NULL);
    bool taken = batch != NULL && take_batch(self, batch);
    Py_XDECREF(batch);
    Py_XDECREF(items);
    return taken;
}

/* The next batch; false: an exception. Batches grow: from few for who looks for one path, to many. */
static bool next_batch(hot_scan *self) {
    uint32_t room = self->room == 0 ? BATCH_FIRST : self->room * 2;
    self->at = self->count = 0;
    if (!make_room(self, room < BATCH_MAX ? room : BATCH_MAX)) {
        PyErr_NoMemory();
        return false;
    }
    self->busy = true;
    bool filled = fill(self) || fill_slowly(self);
    self->busy = false;
    return filled;
}

/* --- giving out --- */

static PyObject *value_load(const hot_scan *self, const found_entry *entry) {
    PyObject *size = PyLong_FromUnsignedLongLong(entry->from.size), *value = NULL;
    PyObject *attachment = Py_XNewRef(self->snapshot->attachment);
    PyObject *load = self->items == BUFFERS ? name_load_buffer : name_load_value;
    if (size != NULL && attachment != NULL)
        value = PyObject_CallMethodObjArgs(attachment, load, entry->value, size, NULL);
    Py_XDECREF(attachment);
    Py_XDECREF(size);
    return value;
}

/* [(id, size), ...] of what is left of the batch and only L2 has. */
static PyObject *wanted_of(const hot_scan *self) {
    PyObject *wanted = PyList_New(0);
    for (uint32_t i = self->at; wanted != NULL && i < self->count; i++) {
        const found_entry *entry = &self->found[i];
        if (entry->here || !entry->in_l2) continue;
        PyObject *pair = Py_BuildValue("(OK)", entry->value, (unsigned long long)entry->from.size);
        if (pair == NULL || PyList_Append(wanted, pair) < 0) Py_CLEAR(wanted);
        Py_XDECREF(pair);
    }
    return wanted;
}

/* What load_values returned, in the same order; one that it has not stays to be loaded by itself. */
static bool take_loaded(hot_scan *self, PyObject *values) {
    Py_ssize_t next_value = 0;
    for (uint32_t i = self->at; i < self->count; i++) {
        found_entry *entry = &self->found[i];
        if (entry->here || !entry->in_l2) continue;
        entry->in_l2 = false;
        if (next_value == PyList_GET_SIZE(values)) return false;
        PyObject *value = PyList_GET_ITEM(values, next_value++);
        if (!PyBytes_Check(value)) continue;
        Py_SETREF(entry->value, Py_NewRef(value));
        entry->here = true;
    }
    return true;
}

/* Load what is left of the batch from L2 in one go. It runs Python code, so nobody may advance the iterator meanwhile. */
static bool load_batch(hot_scan *self) {
    PyObject *attachment = Py_XNewRef(self->snapshot->attachment), *wanted = wanted_of(self), *values = NULL;
    self->busy = true;
    if (attachment != NULL && wanted != NULL)
        values = PyObject_CallMethodOneArg(attachment, name_load_values, wanted);
    bool loaded = values != NULL && PyList_CheckExact(values) && take_loaded(self, values);
    if (!loaded && !PyErr_Occurred())
        PyErr_SetString(PyExc_TypeError, "load_values returns a list, a value or None for each");
    self->busy = false;
    Py_XDECREF(values);
    Py_XDECREF(wanted);
    Py_XDECREF(attachment);
    return loaded;
}

/* An entry that left the batch, as (path, value). */
static PyObject *pair_of(const hot_scan *self, found_entry *entry) {
    PyObject *value = entry->here ? Py_NewRef(entry->value) : value_load(self, entry);
    PyObject *pair = value == NULL ? NULL : PyTuple_New(2);
    if (pair != NULL) {
        PyTuple_SET_ITEM(pair, 0, Py_NewRef(entry->path));
        PyTuple_SET_ITEM(pair, 1, Py_NewRef(value));
    }
    Py_XDECREF(value);
    Py_DECREF(entry->path);
    Py_DECREF(entry->value);
    return pair;
}

static PyObject *next(hot_scan *self) {
    if (self->busy) {
        PyErr_SetString(PyExc_ValueError, "this iterator is being advanced already");
        return NULL;
    }
    if (self->snapshot == NULL) return NULL;
    while (self->at == self->count) {
        if (!self->more || !next_batch(self)) return NULL;
    }
    if (self->items && self->found[self->at].in_l2 && !load_batch(self)) return NULL;
    found_entry entry = self->found[self->at++];
    return self->items ? pair_of(self, &entry) : entry.path;
}

/* --- the type --- */

PyObject *hot_scan_make(PyObject *snapshot, PyObject *const *args, Py_ssize_t count) {
    if (count != 4 || !PyBytes_CheckExact(args[0]) || !(args[1] == Py_None || PyBytes_CheckExact(args[1]))) {
        PyErr_SetString(PyExc_TypeError,
                        "_scan(start: bytes, stop: bytes | None, reverse: bool, items: 0..2)");
        return NULL;
    }
    int reverse = PyObject_IsTrue(args[2]);
    long items = PyLong_AsLong(args[3]);
    if (reverse < 0 || (items == -1 && PyErr_Occurred())) return NULL;
    hot_scan *self = PyObject_GC_New(hot_scan, &hot_scan_type);
    if (self == NULL) return NULL;
    self->snapshot = (hot_snapshot *)Py_NewRef(snapshot);
    self->start = Py_NewRef(args[0]);
    self->stop = args[1] == Py_None ? NULL : Py_NewRef(args[1]);
    self->found = NULL;
    self->room = self->count = self->at = 0;
    self->call = NULL;
    self->value_bytes = 0;
    self->reverse = reverse;
    self->items = (int)items;
    self->more = true;
    self->busy = false;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static int traverse(hot_scan *self, visitproc visit, void *arg) {
    Py_VISIT(self->snapshot);
    return 0;
}

static int clear(hot_scan *self) {
    Py_CLEAR(self->snapshot);
    return 0;
}

static void dealloc(hot_scan *self) {
    PyObject_GC_UnTrack(self);
    clear(self);
    drop_found(self);
    PyMem_Free(self->found);
    Py_CLEAR(self->start);
    Py_CLEAR(self->stop);
    PyObject_GC_Del(self);
}

PyTypeObject hot_scan_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "helios_shm._hot.Scan",
    .tp_doc = "An iterator over a range of a snapshot.",
    .tp_basicsize = sizeof(hot_scan),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_traverse = (traverseproc)traverse,
    .tp_clear = (inquiry)clear,
    .tp_dealloc = (destructor)dealloc,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)next,
};

int hot_scan_init(void) {
    name_scan_slowly = PyUnicode_InternFromString("_scan_slowly");
    name_load_value = PyUnicode_InternFromString("load_value");
    name_load_buffer = PyUnicode_InternFromString("load_buffer");
    name_load_values = PyUnicode_InternFromString("load_values");
    return name_scan_slowly && name_load_value && name_load_buffer && name_load_values ? 0 : -1;
}
