/**
 * The bands of T for which CUDA splits the sums of a long K over blocks in one way each, so that a row gives the same bits
 * for all T of a band: some T, a K that is split on small devices, and first rows and numbers of rows within the band.
 */
export const splitBands = [
  {
    T: 64,
    K: 1032,
    parts: [
      [0, 33],
      [20, 40],
    ],
  },
  {
    T: 128,
    K: 1544,
    parts: [
      [0, 65],
      [20, 100],
    ],
  },
  {
    T: 256,
    K: 2056,
    parts: [
      [0, 129],
      [50, 200],
    ],
  },
] as const;

/**
 * Batch-invariant products that are in several parts of K on small devices, in one, and in unequal parts: some T, and first
 * rows and numbers of rows on both sides of every T at which something else multiplies.
 */
export const invariantCompanies = [
  {
    T: 400,
    K: 1032,
    N: 70,
    parts: [
      [0, 1],
      [399, 1],
      [7, 9],
      [3, 33],
      [100, 64],
      [50, 65],
      [20, 129],
      [0, 256],
      [90, 257],
    ],
  },
  {
    T: 300,
    K: 2056,
    N: 139,
    parts: [
      [299, 1],
      [1, 2],
      [40, 32],
      [41, 200],
      [10, 270],
    ],
  },
  {
    T: 270,
    K: 104,
    N: 34,
    parts: [
      [0, 1],
      [269, 1],
      [5, 40],
      [100, 150],
    ],
  },
] as const;
