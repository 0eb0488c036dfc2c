/* cpu/packed.h - bf16 weights in 12 bits each, without loss. Private to cpu/.
 *
 * Of the 256 exponents nearly all weights of a panel have one of 16. So a weight is kept as a byte,
 * sign and mantissa, and four bits that choose the exponent from the panel's own 16; the few that
 * have another one ("rare") are listed apart. Few rows wait for memory, which then has a quarter
 * less to bring, and what is multiplied are the same bits: no result changes.
 *
 * A row of a packed panel is that of a bf16 panel, two inputs x 64 outputs, 128 weights in 192
 * bytes: 64 of sign and mantissa for the first 64 weights, 64 for the others, 64 of exponents: low
 * halves belong to the first, high halves to the others. Of 64 weights every 16 bytes hold eight of
 * the first 32, then eight of the last 32: unpacking interleaves these halves of 16 bytes.
 *
 * That exponents compress is known, for instance from DFloat11 (arXiv:2504.11651), which gives them
 * codes of variable length; a fixed length is unpacked in registers faster than memory delivers.
 */
#ifndef SC_CPU_PACKED_H
#define SC_CPU_PACKED_H

#include "cpu/device.h"

#define SC_CPU_PACKED_ROW   192u                     /* bytes of two inputs of a panel */
#define SC_CPU_ROW          (2 * SC_CPU_PANEL)       /* weights of them */
#define SC_CPU_PACKED_AHEAD (64 * SC_CPU_PACKED_ROW)

/* Packs the bf16 matrix that parts say into m, whose shape is set, if that makes it smaller by a
 * tenth at least. False: it does not, or there is no memory for it; nothing was taken. */
bool sc_cpu_pack(struct sc_cpu_device *dev, const struct sc_matrix_part *parts, uint32_t n_parts,
                 struct sc_matrix *m);
void sc_cpu_pack_close(struct sc_matrix *m);

/* Inputs k0 .. k0 + k of a panel (k0 a multiple of 32) as those of a bf16 panel, and zeros up to the
 * next multiple of 32 behind the last. *rare: the first of the
 * panel's rare weights that may lie there, at first m->rare + m->rare0[panel]; moved on for the
 * next inputs. */
void sc_cpu_unpack(const struct sc_cpu_device *dev, const struct sc_matrix *m, uint32_t panel,
                   uint32_t k0, uint32_t k, const struct sc_cpu_rare **rare, uint16_t *to);

#endif
