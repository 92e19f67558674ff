/* hot_files.c - files_list, files_read and files_write: lists of paths and bytes as jobs of hs_files, and back. See hot.h.
 *
 *   list of jobs  --GIL held-->  hs_files_job[]  --threads, GIL dropped-->  hs_files_job[]  --GIL held-->  list of results
 *
 * A result is an errno, or what the job found; the file's stat is bytes, as an index keeps it, so that comparing two is comparing
 * bytes. With workers 0 the jobs are done in the calling thread: for few, small ones. Otherwise the caller looks every
 * WAIT_MS whether somebody wants to stop it (Ctrl-C), tells the threads to, and ends with that exception. */
#include "hot.h"
#include "../hs_files.h"

#define WAIT_MS 50u

typedef struct batch {
    hs_files_job *jobs;
    Py_ssize_t count;
    int root;
    unsigned workers;
} batch;

static bool batch_open(batch *self, PyObject *list, int root, unsigned workers) {
    *self = (batch){.count = PyList_GET_SIZE(list), .root = root, .workers = workers};
    self->jobs = PyMem_Calloc((size_t)self->count + 1, sizeof *self->jobs);
    if (self->jobs == NULL) PyErr_NoMemory();
    return self->jobs != NULL;
}

static void batch_close(batch *self) {
    hs_files_free(self->jobs, (size_t)self->count);
    PyMem_Free(self->jobs);
}

static bool in_threads(batch *self) {
    hs_files_run *run = PyMem_Calloc(1, sizeof *run);
    if (run == NULL) return PyErr_NoMemory() != NULL;
    int error = hs_files_begin(run, self->root, self->jobs, (size_t)self->count, self->workers);
    bool interrupted = false;
    for (bool ended = error != 0; !ended;) {
        Py_BEGIN_ALLOW_THREADS;
        ended = hs_files_wait(run, WAIT_MS);
        Py_END_ALLOW_THREADS;
        if (!ended && PyErr_CheckSignals() < 0) {
            hs_files_stop(run);
            interrupted = ended = true;
        }
    }
    Py_BEGIN_ALLOW_THREADS;
    hs_files_end(run);
    Py_END_ALLOW_THREADS;
    PyMem_Free(run);
    if (error) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return !error && !interrupted;
}

static bool batch_run(batch *self) {
    if (self->workers && self->count > 0) return in_threads(self);
    Py_BEGIN_ALLOW_THREADS;
    hs_files_do(self->root, self->jobs, (size_t)self->count);
    Py_END_ALLOW_THREADS;
    return PyErr_CheckSignals() == 0;
}

/* A path as the system takes it: bytes that hold no 0. */
static const char *path_of(PyObject *object) {
    char *path;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(object, &path, &size) < 0) return NULL;
    if (strlen(path) == (size_t)size) return path;
    PyErr_SetString(PyExc_ValueError, "a path with a zero byte");
    return NULL;
}

static PyObject *stat_bytes(const hs_files_stat *stat) {
    return PyBytes_FromStringAndSize((const char *)stat, sizeof *stat);
}

/* The results, one made by `make` of each job that succeeded. */
static PyObject *results_of(const batch *self, PyObject *(*make)(const hs_files_job *)) {
    PyObject *list = PyList_New(self->count);
    for (Py_ssize_t i = 0; list != NULL && i < self->count; i++) {
        const hs_files_job *job = &self->jobs[i];
        PyObject *result = job->error ? PyLong_FromLong(job->error) : make(job);
        if (result == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, result);
    }
    return list;
}

static PyObject *run_and_close(batch *self, PyObject *(*make)(const hs_files_job *)) {
    PyObject *results = batch_run(self) ? results_of(self, make) : NULL;
    batch_close(self);
    return results;
}

/* --- files_list(root, [path], workers) -> [errno | [(name, kind, stat)]] --- */

static PyObject *name_tuple(const hs_files_name *head) {
    PyObject *name = PyUnicode_DecodeUTF8((const char *)(head + 1), head->name_size, "surrogateescape");
    PyObject *stat = stat_bytes(&head->stat), *kind = PyLong_FromLong((long)head->stat.kind);
    PyObject *made = name && stat && kind ? PyTuple_Pack(3, name, kind, stat) : NULL;
    Py_XDECREF(name);
    Py_XDECREF(kind);
    Py_XDECREF(stat);
    return made;
}

static PyObject *listing_of(const hs_files_job *job) {
    PyObject *list = PyList_New(0);
    for (size_t at = 0; list != NULL && at < job->out_size;) {
        const hs_files_name *head = (const hs_files_name *)(const void *)(job->out + at);
        at += head->size;
        PyObject *made = name_tuple(head);
        if (made == NULL || PyList_Append(list, made) < 0) Py_CLEAR(list);
        Py_XDECREF(made);
    }
    return list;
}

PyObject *hot_files_list(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *paths;
    int root;
    unsigned workers;
    batch self;
    if (!PyArg_ParseTuple(args, "iO!I:files_list", &root, &PyList_Type, &paths, &workers)) return NULL;
    if (!batch_open(&self, paths, root, workers)) return NULL;
    for (Py_ssize_t i = 0; i < self.count; i++) {
        self.jobs[i].what = HS_FILES_LIST;
        if ((self.jobs[i].path = path_of(PyList_GET_ITEM(paths, i))) != NULL) continue;
        batch_close(&self);
        return NULL;
    }
    return run_and_close(&self, listing_of);
}

/* --- files_read(root, [(what, path)], workers) -> [errno | (bytes or None, id, stat)] --- */

static PyObject *read_tuple(const hs_files_job *job) {
    bool keep = (job->what & HS_FILES_KEEP) != 0;
    PyObject *bytes = keep ? PyBytes_FromStringAndSize((const char *)job->out, (Py_ssize_t)job->out_size)
                           : Py_NewRef(Py_None);
    if (bytes == NULL) return NULL;
    return Py_BuildValue("(Ny#y#)", bytes, job->id, (Py_ssize_t)sizeof job->id, &job->stat,
                         (Py_ssize_t)sizeof job->stat);
}

PyObject *hot_files_read(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *list;
    int root;
    unsigned workers;
    batch self;
    if (!PyArg_ParseTuple(args, "iO!I:files_read", &root, &PyList_Type, &list, &workers)) return NULL;
    if (!batch_open(&self, list, root, workers)) return NULL;
    for (Py_ssize_t i = 0; i < self.count; i++) {
        PyObject *path;
        hs_files_job *job = &self.jobs[i];
        if (PyArg_ParseTuple(PyList_GET_ITEM(list, i), "IS;a job is (what, path)", &job->what, &path) &&
            (job->path = path_of(path)) != NULL)
            continue;
        batch_close(&self);
        return NULL;
    }
    return run_and_close(&self, read_tuple);
}

/* --- files_write(root, [(what, path, bytes, source or None)], workers) -> [errno | stat] --- */

static PyObject *job_stat(const hs_files_job *job) { return stat_bytes(&job->stat); }

static bool write_job(hs_files_job *job, PyObject *given) {
    PyObject *path, *bytes, *source;
    if (!PyArg_ParseTuple(given, "ISSO;a job is (what, path, bytes, source)", &job->what, &path, &bytes,
                          &source))
        return false;
    job->bytes = (const uint8_t *)PyBytes_AS_STRING(bytes);
    job->size = (size_t)PyBytes_GET_SIZE(bytes);
    job->path = path_of(path);
    if (job->path != NULL && source != Py_None) job->source = path_of(source);
    return job->path != NULL && (source == Py_None || job->source != NULL);
}

PyObject *hot_files_write(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *list;
    int root;
    unsigned workers;
    batch self;
    if (!PyArg_ParseTuple(args, "iO!I:files_write", &root, &PyList_Type, &list, &workers)) return NULL;
    if (!batch_open(&self, list, root, workers)) return NULL;
    for (Py_ssize_t i = 0; i < self.count; i++) {
        if (PyTuple_Check(PyList_GET_ITEM(list, i)) && write_job(&self.jobs[i], PyList_GET_ITEM(list, i)))
            continue;
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a job is (what, path, bytes, source)");
        batch_close(&self);
        return NULL;
    }
    return run_and_close(&self, job_stat);
}

/* --- files_same(root, rows, names, checked, workers) -> bool: are the rows of an index that have the flag `checked` true? --- */

#define ROW_SIZE     88 /* stat[48], id[32], u64 flags */
#define ROW_FLAGS_AT 80

static bool looks_of(batch *self, const Py_buffer *rows, const Py_buffer *names, uint64_t checked) {
    const char *name = names->buf, *end = name + names->len;
    Py_ssize_t count = 0;
    for (Py_ssize_t at = 0; at + ROW_SIZE <= rows->len; at += ROW_SIZE) {
        const uint8_t *row = (const uint8_t *)rows->buf + at;
        const char *zero = name < end ? memchr(name, 0, (size_t)(end - name)) : NULL;
        if (zero == NULL) return false;
        if (hs_load_u64(row + ROW_FLAGS_AT) & checked)
            self->jobs[count++] = (hs_files_job){.what = HS_FILES_LOOK, .path = name, .bytes = row};
        name = zero + 1;
    }
    self->count = count;
    return true;
}

static int same(batch *self, const Py_buffer *rows, const Py_buffer *names, uint64_t checked) {
    bool fits = looks_of(self, rows, names, checked);
    if (!fits) self->count = 0;
    if (!batch_run(self)) return -1;
    for (Py_ssize_t i = 0; fits && i < self->count; i++) fits = self->jobs[i].error == 0;
    return fits;
}

PyObject *hot_files_same(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer rows, names;
    unsigned long long checked;
    int root, found = -1;
    unsigned workers;
    if (!PyArg_ParseTuple(args, "iy*y*KI:files_same", &root, &rows, &names, &checked, &workers)) return NULL;
    batch self = {.count = rows.len / ROW_SIZE, .root = root, .workers = workers};
    self.jobs = PyMem_Calloc((size_t)self.count + 1, sizeof *self.jobs);
    if (self.jobs == NULL) {
        PyErr_NoMemory();
    } else {
        found = same(&self, &rows, &names, checked);
        batch_close(&self);
    }
    PyBuffer_Release(&rows);
    PyBuffer_Release(&names);
    return found < 0 ? NULL : PyBool_FromLong(found);
}

/* --- files_directory(root, path) -> descriptor or -errno --- */

PyObject *hot_files_directory(PyObject *Py_UNUSED(module), PyObject *args) {
    int root;
    PyObject *path;
    if (!PyArg_ParseTuple(args, "iS:files_directory", &root, &path)) return NULL;
    const char *at = path_of(path);
    return at == NULL ? NULL : PyLong_FromLong(hs_files_directory(root, at));
}
