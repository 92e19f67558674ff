/* mailbox.h - a mailbox in the shared memory of an exploration; what its processes do. */
#ifndef MAILBOX_H
#define MAILBOX_H

/* Two askers have joined, with a box each. */
void mailbox_begin(void);
void mailbox_begin_asked(void);     /* and both have asked */
void mailbox_begin_taken(void);     /* the first has asked, and its question is taken */
void mailbox_begin_withdrawn(void); /* and withdrawn since */
void mailbox_begin_with_one(void);  /* one asker with three boxes has asked once */

/* A process each. Who asks, or collects, is the asker of the thread's number. */
void mailbox_ask(void);
void mailbox_ask_two_more(void);
void mailbox_collect(void);
void mailbox_read(void);
void mailbox_close(void);
void mailbox_take_and_read(void);
void mailbox_gather_one(void);
void mailbox_gather_all(void); /* a batch as large as can be, or larger */
void mailbox_answer(void);
void mailbox_read_and_answer(void);

void mailbox_all_are_taken(void);
#endif
