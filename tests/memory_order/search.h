/* search.h - the table of a search in the shared memory of an exploration; what its processes do. */
#ifndef SEARCH_H
#define SEARCH_H

/* A row with one action; three lanes, of which 0 and 1 are about to enter it. */
void search_begin(void);
void search_begin_changed(void); /* and lane 0 has, and is dead */
void search_begin_out(void);     /* and lane 0 is out there, with a row to link */

/* A process each, of the lane of the thread's number, or of lane 1. */
void search_change(void);
void search_die(void);  /* lane 0's change, then repair: it was made, and that is known */
void search_look(void); /* repair alone */
void search_insert(void);
void search_find(void);
void search_iterate(void);
void search_link(void);
void search_read(void);
#endif
