/* test_record.c - records, log blocks and packs: one encoding for a content, and everything else is refused. */
#include "hs_rig.h"

static hs_record sample(void) {
    hs_record r = {.flags = HS_RECORD_HAS_PARENT | HS_RECORD_HAS_SECOND,
                   .parent_word = 0x1122334455667788,
                   .serial = 9,
                   .sequence = 8,
                   .incarnation = 2,
                   .time_ns = -5,
                   .latency_ns = 4200,
                   .new_bytes = 1u << 20,
                   .reused_bytes = 77,
                   .new_nodes = 3,
                   .changed_keys = 2,
                   .retries = 1,
                   .name = (const uint8_t *)"main",
                   .name_size = 4,
                   .message = (const uint8_t *)"opening",
                   .message_size = 7,
                   .metadata = (const uint8_t *)"{\"a\":1}",
                   .metadata_size = 7};
    memset(r.root, 0x11, 32);
    memset(r.parent, 0x22, 32);
    memset(r.second, 0x33, 32);
    return r;
}

static void record_comes_back_as_it_was(void) {
    uint8_t bytes[HS_RECORD_SIZE_MAX], again[HS_RECORD_SIZE_MAX];
    hs_record in = sample(), out;
    size_t size = hs_record_encode(&in, bytes);
    CHECK_EQ_INT(size, HS_RECORD_FIXED_SIZE + 4 + 7 + 7);
    CHECK_EQ_INT(hs_record_decode(bytes, size, &out), HS_OK);
    CHECK(out.serial == 9 && out.sequence == 8 && out.incarnation == 2 && out.time_ns == -5 &&
          out.parent_word == in.parent_word);
    CHECK(out.latency_ns == 4200 && out.new_bytes == 1u << 20 && out.reused_bytes == 77);
    CHECK(out.new_nodes == 3 && out.changed_keys == 2 && out.retries == 1);
    CHECK_EQ_MEM(out.name, "main", 4);
    CHECK_EQ_MEM(out.message, "opening", 7);
    CHECK_EQ_MEM(out.metadata, "{\"a\":1}", 7);
    CHECK_EQ_INT(hs_record_encode(&out, again), size);
    CHECK_EQ_MEM(bytes, again, size);
}

static void largest_record_fits(void) {
    static uint8_t bytes[HS_RECORD_SIZE_MAX], text[HS_RECORD_MESSAGE_MAX];
    hs_record in = sample(), out;
    in.name = in.message = in.metadata = text;
    in.name_size = HS_RECORD_NAME_MAX;
    in.message_size = HS_RECORD_MESSAGE_MAX;
    in.metadata_size = HS_RECORD_METADATA_MAX;
    CHECK_EQ_INT(hs_record_encode(&in, bytes), HS_RECORD_SIZE_MAX);
    CHECK_EQ_INT(hs_record_decode(bytes, HS_RECORD_SIZE_MAX, &out), HS_OK);
}

static void record_of_a_detached_commit_has_neither_name_nor_serial(void) {
    uint8_t bytes[HS_RECORD_SIZE_MAX];
    hs_record in = sample(), out;
    in.serial = 0;
    in.name_size = 0;
    size_t size = hs_record_encode(&in, bytes);
    CHECK_EQ_INT(hs_record_decode(bytes, size, &out), HS_OK);
    CHECK(out.serial == 0 && out.name_size == 0);
    hs_store_u64(bytes + 64, 1);
    CHECK_EQ_INT(hs_record_decode(bytes, size, &out), HS_CORRUPT);
}

static void hashes_without_their_flag_are_zeros(void) {
    uint8_t bytes[HS_RECORD_SIZE_MAX], zeros[64] = {0};
    hs_record in = sample();
    in.flags = HS_RECORD_DELETED;
    size_t size = hs_record_encode(&in, bytes);
    CHECK_EQ_MEM(bytes + 128, zeros, 64);
    hs_record out;
    bytes[128 + 31] = 1;
    CHECK_EQ_INT(hs_record_decode(bytes, size, &out), HS_CORRUPT);
    bytes[128 + 31] = 0, bytes[160] = 1;
    CHECK_EQ_INT(hs_record_decode(bytes, size, &out), HS_CORRUPT);
}

static void what_is_not_canonical_is_refused(void) {
    uint8_t good[HS_RECORD_SIZE_MAX], bad[HS_RECORD_SIZE_MAX + 1];
    hs_record in = sample(), out;
    size_t size = hs_record_encode(&in, good);
    const size_t at[] = {0, 1, 3, 5, 6, 7, 10, 11, 14, 15, 124, 127}; /* type, version, flags, sizes, zeros */
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        memcpy(bad, good, size);
        bad[at[i]] ^= 0x80;
        CHECK_EQ_INT(hs_record_decode(bad, size, &out), HS_CORRUPT);
    }
    for (size_t cut = 0; cut < size; cut++) CHECK_EQ_INT(hs_record_decode(good, cut, &out), HS_CORRUPT);
    memcpy(bad, good, size);
    CHECK_EQ_INT(hs_record_decode(bad, size + 1, &out), HS_CORRUPT);
    memcpy(bad, good, size);
    hs_store_u16(bad + 4, 0); /* no name */
    CHECK_EQ_INT(hs_record_decode(bad, size - 4, &out), HS_CORRUPT);
}

/* A block of `count` records as the drain writes it. */
static size_t block_make(uint8_t *block, uint32_t count, uint64_t first) {
    size_t at = HS_LOG_FIXED_SIZE + 4 * (count + 1);
    hs_store_u32(block, HS_LOG_MAGIC);
    hs_store_u32(block + 4, count);
    hs_store_u64(block + 8, first);
    for (uint32_t i = 0; i < count; i++) {
        hs_store_u32(block + HS_LOG_FIXED_SIZE + 4 * i, (uint32_t)at);
        at += record_make("main", first + i, 0, block + at);
    }
    hs_store_u32(block + HS_LOG_FIXED_SIZE + 4 * count, (uint32_t)at);
    hs_blake3(block, at, block + at);
    return at + HS_LOG_SUM_SIZE;
}

static void resum(uint8_t *block, size_t size) { hs_blake3(block, size - 32, block + size - 32); }

static void log_block_is_whole_or_refused(void) {
    uint8_t block[4096], bad[4096];
    size_t size = block_make(block, 3, 7);
    CHECK_EQ_INT(hs_log_validate(block, size), HS_OK);
    for (size_t i = 0; i < size; i++) {
        memcpy(bad, block, size);
        bad[i] ^= 1;
        CHECK_EQ_INT(hs_log_validate(bad, size), HS_CORRUPT);
    }
    for (size_t cut = 0; cut < size; cut += 13) CHECK_EQ_INT(hs_log_validate(block, cut), HS_CORRUPT);
    for (int i = 0; i < 5; i++) { /* wrong, but under a right sum */
        memcpy(bad, block, size);
        if (i == 0) hs_store_u64(bad + 8, 8);                          /* serials do not follow */
        if (i == 1) hs_store_u32(bad + 20, UINT32_MAX);                /* an offset outside */
        if (i == 2) hs_store_u32(bad + 20, 1);                         /* an offset that goes back */
        if (i == 3) hs_store_u32(bad + 28, hs_load_u32(bad + 28) - 1); /* the last record ends early */
        if (i == 4) hs_store_u32(bad + 4, UINT32_MAX);                 /* more rows than bytes */
        resum(bad, size);
        CHECK_EQ_INT(hs_log_validate(bad, size), HS_CORRUPT);
    }
    size = block_make(block, 0, 1);
    CHECK_EQ_INT(hs_log_validate(block, size), HS_OK);
}

/* A pack of things 0 .. count - 1 with payloads of 10 + i bytes. */
static size_t pack_make(uint8_t *pack, uint32_t count) {
    size_t end = hs_pack_payload_start(count);
    for (uint32_t i = 0; i < count; i++) {
        thing t = thing_make(i, 10 + i);
        hs_pack_row row = {.id = t.id,
                           .offset = (uint32_t)end,
                           .stored_size = t.size,
                           .raw_size = t.size,
                           .kind = HS_ENTRY_VALUE};
        hs_pack_row_set(pack, i, &row);
        memcpy(pack + end, t.bytes, t.size);
        end += t.size;
    }
    hs_pack_seal(pack, count, end - hs_pack_payload_start(count));
    return end;
}

static void damage_of_a_packs_rows_is_noticed(void) {
    uint8_t pack[2048], bad[2048];
    size_t size = pack_make(pack, 8);
    CHECK_EQ_INT(hs_pack_validate(pack, size), HS_OK);
    for (size_t i = 0; i < hs_pack_payload_start(8); i++) {
        memcpy(bad, pack, size);
        bad[i] ^= 4;
        CHECK_EQ_INT(hs_pack_validate(bad, size), HS_CORRUPT);
    }
    for (size_t cut = 0; cut < size; cut += 17) CHECK_EQ_INT(hs_pack_validate(pack, cut), HS_CORRUPT);
    memcpy(bad, pack, size);
    hs_store_u32(bad + hs_pack_payload_start(3) + 32, 0); /* a row that leads elsewhere, under a right sum */
    hs_pack_seal(bad, 8, size - hs_pack_payload_start(8));
    CHECK_EQ_INT(hs_pack_validate(bad, size), HS_CORRUPT);
}

static void dropped_rows_leave_a_whole_pack(void) {
    uint8_t pack[2048];
    for (uint32_t mask = 0; mask < 256; mask++) {
        size_t size = pack_make(pack, 8);
        uint32_t rows[8], dropped = 0, kept = 0;
        for (uint32_t i = 0; i < 8; i++)
            if (mask >> i & 1) rows[dropped++] = i;
        CHECK_EQ_INT(hs_pack_drop(pack, &size, rows, dropped), HS_OK);
        CHECK_EQ_INT(hs_pack_validate(pack, size), HS_OK);
        CHECK_EQ_INT(hs_pack_count(pack), 8 - dropped);
        for (uint32_t i = 0; i < 8; i++) {
            if (mask >> i & 1) continue;
            thing t = thing_make(i, 10 + i);
            hs_pack_row row = hs_pack_row_get(pack, kept++);
            CHECK_EQ_MEM(row.id, t.id, 32);
            CHECK(row.stored_size == t.size && memcmp(pack + row.offset, t.bytes, t.size) == 0);
        }
    }
    size_t size = pack_make(pack, 8);
    uint32_t back[] = {3, 2}, outside[] = {8};
    CHECK_EQ_INT(hs_pack_drop(pack, &size, back, 2), HS_ARGUMENT);
    CHECK_EQ_INT(hs_pack_drop(pack, &size, outside, 1), HS_ARGUMENT);
    CHECK_EQ_INT(hs_pack_validate(pack, size), HS_OK);
}

int main(void) {
    RUN(record_comes_back_as_it_was);
    RUN(largest_record_fits);
    RUN(record_of_a_detached_commit_has_neither_name_nor_serial);
    RUN(hashes_without_their_flag_are_zeros);
    RUN(what_is_not_canonical_is_refused);
    RUN(log_block_is_whole_or_refused);
    RUN(damage_of_a_packs_rows_is_noticed);
    RUN(dropped_rows_leave_a_whole_pack);
    return hs_test_report();
}
