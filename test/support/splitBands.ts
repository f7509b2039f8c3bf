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
