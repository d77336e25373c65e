/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Forgets memory: what a memory checker must notice. */
#include <precopy.h>
#include <stdlib.h>

int main(void) {
    volatile char *lost = malloc(100);
    if (lost == NULL)
        return 1;
    lost[0] = precopy_version()[0];
    lost = NULL;
    return lost != NULL;
}
