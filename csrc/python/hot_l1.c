/* hot_l1.c - L1Base: a value into the ring, and back by its id. See hot.h.
 *
 *   l1.put(value)     exact bytes, small, with room in the ring           else  _put(value)
 *   l1.get(id)        exact bytes, there, not encoded                     else  _get(id) */
#include "hot.h"
#include "../hs_blake3.h"
#include "../hs_read.h"

typedef struct hot_l1 {
    PyObject_HEAD PyObject *attachment;
} hot_l1;

static PyObject *name_put, *name_get;

static int traverse(hot_l1 *self, visitproc visit, void *arg) {
    Py_VISIT(self->attachment);
    return 0;
}

static int clear(hot_l1 *self) {
    Py_CLEAR(self->attachment);
    return 0;
}

static void dealloc(hot_l1 *self) {
    PyObject_GC_UnTrack(self);
    clear(self);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *put(hot_l1 *self, PyObject *value) {
    hs_call *call;
    hot_lock lock;
    if (PyBytes_CheckExact(value) && PyBytes_GET_SIZE(value) < hot_bound_types.large &&
        self->attachment != NULL && (call = hot_peek_call(self->attachment)) != NULL &&
        hot_try_lock(&lock, call->engine)) {
        PyObject *id = NULL;
        int status = hs_l1_put_locked(call, (const uint8_t *)PyBytes_AS_STRING(value),
                                      (size_t)PyBytes_GET_SIZE(value));
        if (status == HS_OK) id = PyBytes_FromStringAndSize((const char *)call->id, sizeof call->id);
        hot_unlock(&lock);
        if (status == HS_OK) return id;
    }
    return PyObject_CallMethodOneArg((PyObject *)self, name_put, value);
}

static PyObject *get(hot_l1 *self, PyObject *id) {
    hs_call *call;
    hot_lock lock;
    if (PyBytes_CheckExact(id) && PyBytes_GET_SIZE(id) == HS_HASH_SIZE && self->attachment != NULL &&
        (call = hot_peek_call(self->attachment)) != NULL && hot_try_lock(&lock, call->engine)) {
        PyObject *value = NULL;
        int64_t size = hs_l1_get_locked(call, (const uint8_t *)PyBytes_AS_STRING(id));
        bool is_here = 0 <= size && size < HS_ENCODED;
        if (is_here) value = PyBytes_FromStringAndSize((const char *)call->data, (Py_ssize_t)size);
        hot_unlock(&lock);
        if (is_here) return value;
    }
    return PyObject_CallMethodOneArg((PyObject *)self, name_get, id);
}

static const hot_field attachment_field = {offsetof(hot_l1, attachment), &hot_attachment_type, false};

static PyGetSetDef properties[] = {
    {"_attachment", hot_field_get, hot_field_set, NULL, (void *)&attachment_field}, {0}};

static PyMethodDef methods[] = {
    {"put", (PyCFunction)(void (*)(void))put, METH_O,
     "put($self, value, /)\n--\n\n"
     "Append a value of at most half a MiB; returns its id. A value that is there already is not appended again.\n\n"
     "Raises ValueError for a larger one, CapacityError when the ring stays full."},
    {"get", (PyCFunction)(void (*)(void))get, METH_O,
     "get($self, id, /)\n--\n\nThe value of an id (32 bytes), or None if L1 does not have it."},
    {0}};

PyTypeObject hot_l1_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "helios_shm._hot.L1Base",
    .tp_basicsize = sizeof(hot_l1),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)traverse,
    .tp_clear = (inquiry)clear,
    .tp_dealloc = (destructor)dealloc,
    .tp_getset = properties,
    .tp_methods = methods,
};

int hot_l1_init(void) {
    name_put = PyUnicode_InternFromString("_put");
    name_get = PyUnicode_InternFromString("_get");
    return name_put && name_get ? 0 : -1;
}
