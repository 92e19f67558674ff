/* test_histogram.c - each value falls into the bucket that says so, near enough to its middle, and sums are those of all. */
#include "hs_histogram.h"
#include "hs_test.h"

static void each_bucket_begins_where_the_one_before_it_ends(void) {
    CHECK_EQ_INT(hs_histogram_low(0), 0);
    for (uint32_t i = 1; i < HS_HISTOGRAM_BUCKETS; i++) {
        uint64_t low = hs_histogram_low(i);
        CHECK(low > hs_histogram_low(i - 1));
        CHECK_EQ_INT(hs_histogram_bucket(low), i);
        CHECK_EQ_INT(hs_histogram_bucket(low - 1), i - 1);
    }
}

static void middle_of_a_bucket_is_within_a_sixteenth_of_all_that_is_in_it(void) {
    for (uint32_t i = 8; i + 1 < HS_HISTOGRAM_BUCKETS; i++) {
        uint64_t low = hs_histogram_low(i), end = hs_histogram_low(i + 1), middle = low + (end - low) / 2;
        CHECK((middle - low) * 16 <= low);
        CHECK((end - 1 - middle) * 16 <= end - 1);
    }
}

static void microsecond_to_a_thousand_seconds_are_told_apart(void) {
    CHECK(hs_histogram_bucket(1000) != hs_histogram_bucket(1200));
    CHECK(hs_histogram_bucket(UINT64_C(900) * 1000000000) !=
          hs_histogram_bucket(UINT64_C(1000) * 1000000000));
    CHECK_EQ_INT(hs_histogram_bucket(UINT64_MAX), HS_HISTOGRAM_BUCKETS - 1);
    CHECK_EQ_INT(hs_histogram_bucket(UINT64_C(1) << 40), HS_HISTOGRAM_BUCKETS - 1);
    CHECK_EQ_INT(hs_histogram_bucket((UINT64_C(1) << 40) - 1), HS_HISTOGRAM_BUCKETS - 1);
}

static void sum_of_histograms_has_all_their_values(void) {
    static hs_histogram a, b;
    hs_measured sum = {0};
    for (uint64_t v = 0; v < 1000; v++) hs_histogram_add(v % 3 ? &a : &b, v * v);
    hs_histogram_sum(&a, &sum);
    hs_histogram_sum(&b, &sum);
    uint64_t count = 0, total = 0;
    for (uint32_t i = 0; i < HS_HISTOGRAM_BUCKETS; i++) count += sum.buckets[i];
    for (uint64_t v = 0; v < 1000; v++) total += v * v;
    CHECK_EQ_INT(count, 1000);
    CHECK_EQ_INT(sum.sum, total);
    CHECK_EQ_INT(sum.max, 999 * 999);
    CHECK_EQ_INT(sum.buckets[hs_histogram_bucket(999 * 999)] > 0, 1);
}

int main(void) {
    RUN(each_bucket_begins_where_the_one_before_it_ends);
    RUN(middle_of_a_bucket_is_within_a_sixteenth_of_all_that_is_in_it);
    RUN(microsecond_to_a_thousand_seconds_are_told_apart);
    RUN(sum_of_histograms_has_all_their_values);
    return hs_test_report();
}
