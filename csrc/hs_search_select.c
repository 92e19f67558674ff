/* hs_search_select.c - which action a simulation goes on by.
 *
 * With visits v, in flight f, n = v + f of an edge, N = the sum of n and of the row's own evaluations, P its prior, W its sum:
 *
 *   UCT    Q + c sqrt(ln N / n); an edge with n = 0 comes first        Kocsis & Szepesvari 2006, after UCB1 of Auer et al. 2002
 *   PUCT   Q + c P sqrt(N) / (1 + n)                                  Rosin 2011, in the form of Silver et al. 2017
 *
 *   Q = W / v                        and f counts in n only: WU-UCT   Liu et al. 2020
 *   Q = (W - virtual_loss f) / n     virtual loss                     Chaslot et al. 2008
 *   Q of an edge without visits: fpu, or the mean of its row
 *   normalize: Q is scaled so that the least and the greatest Q met are 0 and 1           Schrittwieser et al. 2020
 *   widening: only the first ceil(widening_c N^widening_alpha) actions  Coulom 2007, Chaslot et al. 2008
 *   chance: an action is drawn by its prior
 *
 * Counts are loaded one by one while others change them: what is read need never have stood there all at once. It guides the search and
 * decides nothing that must be exact. */
#include <math.h>
#include "hs_search.h"

typedef struct scale { /* what the scores of one row have in common */
    const hs_search_config *config;
    double mean, factor, least, spread; /* spread 0: Q as it is */
} scale;

/* splitmix64. */
static uint64_t draw(uint64_t *rng) {
    uint64_t z = *rng += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint32_t chance_draw(const hs_search_edge_data *edges, uint32_t n, uint64_t *rng) {
    double rest = (double)(draw(rng) >> 11) * 0x1p-53;
    uint32_t possible = 0;
    for (uint32_t i = 0; i < n; i++) {
        double prior = hs_search_float(hs_load32_relaxed(&edges[i].prior));
        if (prior > 0) possible = i;
        if (rest < prior) return i;
        rest -= prior;
    }
    return possible; /* rounding has left a little */
}

/* N and the mean of a row. */
static double total(const hs_search_row_data *row, const hs_search_edge_data *edges, double *mean) {
    uint64_t visits = hs_search_visits(hs_load_relaxed(&row->own.low)), in_flight = 0;
    double sum = hs_search_double(hs_load_relaxed(&row->own.high));
    for (uint32_t i = 0; i < row->num_actions; i++) {
        uint64_t word = hs_load_relaxed(&edges[i].cell.low);
        visits += hs_search_visits(word);
        in_flight += hs_search_in_flight(word);
        sum += hs_search_double(hs_load_relaxed(&edges[i].cell.high));
    }
    *mean = visits > 0 ? sum / (double)visits : 0;
    return (double)(visits + in_flight);
}

static uint32_t width(const hs_search_config *config, uint32_t num_actions, double n) {
    if (config->widening_c == 0) return num_actions;
    double wide = ceil(config->widening_c * pow(fmax(n, 1), config->widening_alpha));
    return wide >= num_actions ? num_actions : wide < 1 ? 1 : (uint32_t)wide;
}

static scale scale_of(const hs_search_map *map, double n, double mean) {
    const hs_search_config *config = &map->header->config;
    scale by = {.config = config, .mean = isnan(config->fpu) ? mean : config->fpu};
    n = fmax(n, 1);
    by.factor = config->rule == HS_SEARCH_UCT ? log(n) : config->c * sqrt(n);
    if (config->normalize) {
        double least = hs_search_double(hs_load_relaxed(&map->header->q_least));
        double greatest = hs_search_double(hs_load_relaxed(&map->header->q_greatest));
        if (greatest > least) {
            by.least = least;
            by.spread = greatest - least;
        }
    }
    return by;
}

static double q_of(const scale *by, double visits, double in_flight, double sum) {
    double q;
    if (by->config->in_flight_rule == HS_SEARCH_VIRTUAL_LOSS && visits + in_flight > 0)
        q = (sum - by->config->virtual_loss * in_flight) / (visits + in_flight);
    else
        q = visits > 0 ? sum / visits : by->mean;
    return by->spread > 0 ? (q - by->least) / by->spread : q;
}

static double score_of(const scale *by, const hs_search_edge_data *edge) {
    uint64_t word = hs_load_relaxed(&edge->cell.low);
    double visits = hs_search_visits(word), in_flight = hs_search_in_flight(word), n = visits + in_flight;
    double q = q_of(by, visits, in_flight, hs_search_double(hs_load_relaxed(&edge->cell.high)));
    if (by->config->rule == HS_SEARCH_UCT)
        return n == 0 ? INFINITY : q + by->config->c * sqrt(by->factor / n);
    double prior = (double)hs_search_float(hs_load32_relaxed(&edge->prior)) +
                   (double)hs_search_float(hs_load32_relaxed(&edge->noise));
    return q + by->factor * prior / (1 + n);
}

uint32_t hs_search_select(const hs_search_map *map, const hs_search_row_data *row, uint64_t *rng) {
    const hs_search_edge_data *edges = hs_search_edges_of(map, row);
    if (hs_search_shape_kind(hs_load32_relaxed(&row->shape)) == HS_SEARCH_CHANCE)
        return chance_draw(edges, row->num_actions, rng);
    double mean, n = total(row, edges, &mean), best = -INFINITY;
    scale by = scale_of(map, n, mean);
    uint32_t wide = width(by.config, row->num_actions, n), chosen = 0, ties = 0;
    for (uint32_t i = 0; i < wide; i++) {
        double score = score_of(&by, &edges[i]);
        if (score < best) continue;
        ties = score > best ? 1 : ties + 1;
        best = score;
        if (ties == 1 || draw(rng) % ties == 0) chosen = i;
    }
    return chosen;
}
