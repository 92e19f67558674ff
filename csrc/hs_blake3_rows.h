/*
 * hs_blake3_rows: a compression held as rows, one message per 128 bits. A template: hs_blake3_x86.c includes
 * it once for each {vector, instruction set}, after defining
 *
 *   ROWS(name)            the name with this instance's suffix
 *   ROWS_FN               static inline, always, with the target
 *   V                     a vector of rows
 *   ADD XOR ROT16 ROT12 ROT8 ROT7
 *                         on 32-bit words; rotations to the right
 *   SHUFFLE(a, imm)  SHUFFLE2(a, b, imm)  UNPACK_LO(a, b)  UNPACK_HI(a, b)  BLEND3(a, b)
 *                         within 128 bits: permute; two words of a, two of b; interleave; a with word 3 of b
 *   PIN(x)                keeps the compiler from regrouping the additions around x
 *
 *      row 0 |  0  1  2  3           the second half of a round works on diagonals: rows 0, 2 and 3 turn and
 *      row 1 |  4  5  6  7           row 1, which is ready last, stays. So the lanes hold the diagonals
 *      row 2 |  8  9 10 11           3 0 1 2 in this order, and their message words stand in it too:
 *      row 3 | 12 13 14 15           c = (w14 w8 w10 w12), d = (w15 w9 w11 w13); a, b = even, odd of w0..w7
 */

/* Message words of a round, in the order in which the lanes want them. */
typedef struct ROWS(words) {
    V a, b, c, d;
} ROWS(words);
typedef struct ROWS(state) {
    V r0, r1, r2, r3;
} ROWS(state);

/* Sixteen words as they lie in memory, four a vector, to the first round's order. */
ROWS_FN ROWS(words) ROWS(words_first)(V w0, V w4, V w8, V w12) {
    ROWS(words) w;
    w.a = SHUFFLE2(w0, w4, _MM_SHUFFLE(2, 0, 2, 0));
    w.b = SHUFFLE2(w0, w4, _MM_SHUFFLE(3, 1, 3, 1));
    V even = SHUFFLE2(w8, w12, _MM_SHUFFLE(2, 0, 2, 0));
    V odd = SHUFFLE2(w8, w12, _MM_SHUFFLE(3, 1, 3, 1));
    w.c = SHUFFLE(even, _MM_SHUFFLE(2, 1, 0, 3));
    w.d = SHUFFLE(odd, _MM_SHUFFLE(2, 1, 0, 3));
    return w;
}

/* The permutation 2 6 3 10 7 0 4 13 1 11 12 5 9 14 15 8, from one round's order to the next one's. */
ROWS_FN ROWS(words) ROWS(words_next)(ROWS(words) w) {
    ROWS(words) n;
    V t = SHUFFLE2(w.a, w.b, _MM_SHUFFLE(3, 1, 2, 1)); /* w2 w4 w3 w7 */
    n.a = SHUFFLE(t, _MM_SHUFFLE(1, 3, 2, 0));         /* w2 w3 w7 w4 */
    V cd = BLEND3(w.c, w.d);                           /* w14 w8 w10 w13 */
    t = SHUFFLE2(w.a, cd, _MM_SHUFFLE(3, 2, 0, 3));    /* w6 w0 w10 w13 */
    n.b = SHUFFLE(t, _MM_SHUFFLE(3, 1, 2, 0));         /* w6 w10 w0 w13 */
    /* Places 14 8 10 12 of the next round: w15 w1 w12 w9. */
    V low = UNPACK_LO(w.d, w.b);                 /* w15 w1 w9 w3 */
    V dbc = BLEND3(low, w.c);                    /* w15 w1 w9 w12 */
    n.c = SHUFFLE(dbc, _MM_SHUFFLE(2, 3, 1, 0)); /* w15 w1 w12 w9 */
    /* Places 15 9 11 13: w8 w11 w5 w14. */
    V high = UNPACK_HI(w.d, w.b);                     /* w11 w5 w13 w7 */
    t = SHUFFLE2(w.c, high, _MM_SHUFFLE(1, 0, 0, 1)); /* w8 w14 w11 w5 */
    n.d = SHUFFLE(t, _MM_SHUFFLE(1, 3, 2, 0));        /* w8 w11 w5 w14 */
    return n;
}

/* Four G at once. row0 + message is ready before row1 is: added first, it stays off the critical path. */
ROWS_FN ROWS(state) ROWS(half)(ROWS(state) s, V x, V y) {
    V t = ADD(s.r0, x);
    PIN(t);
    s.r0 = ADD(t, s.r1);
    s.r3 = ROT16(XOR(s.r3, s.r0));
    s.r2 = ADD(s.r2, s.r3);
    s.r1 = ROT12(XOR(s.r1, s.r2));
    t = ADD(s.r0, y);
    PIN(t);
    s.r0 = ADD(t, s.r1);
    s.r3 = ROT8(XOR(s.r3, s.r0));
    s.r2 = ADD(s.r2, s.r3);
    s.r1 = ROT7(XOR(s.r1, s.r2));
    return s;
}

ROWS_FN ROWS(state) ROWS(round)(ROWS(state) s, ROWS(words) w) {
    s = ROWS(half)(s, w.a, w.b);
    s.r0 = SHUFFLE(s.r0, _MM_SHUFFLE(2, 1, 0, 3));
    s.r3 = SHUFFLE(s.r3, _MM_SHUFFLE(1, 0, 3, 2));
    s.r2 = SHUFFLE(s.r2, _MM_SHUFFLE(0, 3, 2, 1));
    s = ROWS(half)(s, w.c, w.d);
    s.r0 = SHUFFLE(s.r0, _MM_SHUFFLE(0, 3, 2, 1));
    s.r3 = SHUFFLE(s.r3, _MM_SHUFFLE(1, 0, 3, 2));
    s.r2 = SHUFFLE(s.r2, _MM_SHUFFLE(2, 1, 0, 3));
    return s;
}

/* The seven rounds; the new chaining values are r0 and r1 of the result. */
ROWS_FN ROWS(state) ROWS(compress)(ROWS(state) s, ROWS(words) w) {
    s = ROWS(round)(s, w);
    w = ROWS(words_next)(w);
    s = ROWS(round)(s, w);
    w = ROWS(words_next)(w);
    s = ROWS(round)(s, w);
    w = ROWS(words_next)(w);
    s = ROWS(round)(s, w);
    w = ROWS(words_next)(w);
    s = ROWS(round)(s, w);
    w = ROWS(words_next)(w);
    s = ROWS(round)(s, w);
    w = ROWS(words_next)(w);
    s = ROWS(round)(s, w);
    s.r0 = XOR(s.r0, s.r2);
    s.r1 = XOR(s.r1, s.r3);
    return s;
}

#undef ROWS
#undef ROWS_FN
#undef V
#undef ADD
#undef XOR
#undef ROT16
#undef ROT12
#undef ROT8
#undef ROT7
#undef SHUFFLE
#undef SHUFFLE2
#undef UNPACK_LO
#undef UNPACK_HI
#undef BLEND3
#undef PIN
