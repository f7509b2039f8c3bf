/**
 * The printable alphabet in which byte-level BPE files spell bytes (Radford et al. 2019, "Language Models are
 * Unsupervised Multitask Learners"): a byte that Latin-1 prints stands for itself, and the other 68, in order, are the
 * characters from U+0100 on.
 */
function buildAlphabet(): string[] {
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  let spare = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : spare++));
}

/** The character that spells each byte; 256 entries. */
export const byteAlphabet: readonly string[] = buildAlphabet();

/** The byte of each character of the alphabet by UTF-16 code, −1 where there is none. */
const byteOfCode = new Int16Array(0x100 + 68).fill(-1);
for (const [byte, character] of byteAlphabet.entries()) byteOfCode[character.charCodeAt(0)] = byte;

/**
 * Writes the bytes that a vocabulary entry spells to `out` from `at` on, and returns where they end, or −1 if the entry
 * holds a character outside the alphabet. `out` needs one byte a character.
 */
export function writeSpelledBytes(spelling: string, out: Uint8Array, at: number): number {
  for (let i = 0; i < spelling.length; i++) {
    const byte = byteOfCode[spelling.charCodeAt(i)] ?? -1;
    if (byte < 0) return -1;
    out[at + i] = byte;
  }
  return at + spelling.length;
}
