/* crowd.c - names of branches that all want the same place in a segment's table of branches.
 *
 * The table is full for a name when the window from its home on is full: 32 such names fill one. The seed of the hash is in
 * the segment, so that who does not know it cannot do this. Prints COUNT names, one a line. crowd SEGMENT COUNT */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "hs_branch.h"

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int fd = open(argv[1], O_RDONLY);
    if (fd < 0) return 1;
    const hs_segment_header *header = mmap(NULL, sizeof *header, PROT_READ, MAP_SHARED, fd, 0);
    if (header == MAP_FAILED) return 1;
    hs_segment segment = {.seed = {header->seed[0], header->seed[1]}};
    long wanted = atol(argv[2]);
    uint32_t home = 0;
    for (unsigned long i = 0; wanted > 0; i++) {
        char name[32];
        int size = snprintf(name, sizeof name, "crowd/%lu", i);
        uint32_t its = hs_branch_window_slot(hs_branch_tag(&segment, (const uint8_t *)name, (size_t)size), 0);
        if (i == 0) home = its;
        if (its != home) continue;
        puts(name);
        wanted--;
    }
    return 0;
}
