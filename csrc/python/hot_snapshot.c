/* hot_snapshot.c - SnapshotBase: the fields of a snapshot. See hot.h. */
#include "hot.h"

static int traverse(hot_snapshot *self, visitproc visit, void *arg) {
    Py_VISIT(self->attachment);
    Py_VISIT(self->read);
    return 0;
}

static int clear(hot_snapshot *self) {
    Py_CLEAR(self->attachment);
    Py_CLEAR(self->root);
    Py_CLEAR(self->read);
    return 0;
}

static void dealloc(hot_snapshot *self) {
    PyObject_GC_UnTrack(self);
    clear(self);
    Py_TYPE(self)->tp_free(self);
}

static PyMemberDef members[] = {{"_attachment", T_OBJECT_EX, offsetof(hot_snapshot, attachment), 0, NULL},
                                {"_root", T_OBJECT_EX, offsetof(hot_snapshot, root), 0, NULL},
                                {"_read", T_OBJECT_EX, offsetof(hot_snapshot, read), 0, NULL},
                                {0}};

PyTypeObject hot_snapshot_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "helios_shm._hot.SnapshotBase",
    .tp_basicsize = sizeof(hot_snapshot),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)traverse,
    .tp_clear = (inquiry)clear,
    .tp_dealloc = (destructor)dealloc,
    .tp_members = members,
};
