import type { Random } from './random.js';

type Writer = (random: Random) => string;

const codePoints =
  (from: number, to: number): Writer =>
  (random) =>
    String.fromCodePoint(random.integer(from, to));
const oneOf =
  (...texts: string[]): Writer =>
  (random) =>
    random.pick(texts);
const repeated =
  (write: Writer, from: number, to: number): Writer =>
  (random) =>
    Array.from({ length: random.integer(from, to) }, () => write(random)).join('');
const anyOf =
  (...writers: Writer[]): Writer =>
  (random) =>
    random.pick(writers)(random);

const latin = codePoints(0x61, 0x7a);
/** Of combining classes 0, 1, 7, 9, 10, 132, 202, 216, 220, 230, 240, and some whose decompositions are two marks. */
const mark = oneOf(
  ...['\u20dd', '\u0334', '\u093c', '\u094d', '\u05b0', '\u0f74', '\u0327', '\u031b', '\u0323', '\u0301', '\u0308'],
  ...['\u0345', '\u0344', '\u0340', '\u0f73', '\u{1d165}', '\u{1d16e}', '\u064b', '\u3099'],
);

/** Writers of a few characters each, by what is hard about them. */
const writers = {
  'every plane': (random) => {
    const codePoint = random.integer(0, 0x10ffff);
    return String.fromCodePoint(codePoint >= 0xd800 && codePoint < 0xe000 ? codePoint - 0xd800 : codePoint);
  },
  'combining marks': anyOf(latin, repeated(mark, 1, 6)),
  'long runs of combining marks': anyOf(latin, repeated(mark, 50, 300)),
  'what NFC composes or replaces': oneOf(
    ...['e\u0301', 'A\u030a', '\u212b', '\u1100\u1161\u11a8', '\uac00\u11a8', '\u0958', '\ufb1d', '<\u0338', '\u2126'],
    ...['\u1fef', '\u037e', '\u{2f800}', 'o\u0302\u0301', 'q\u0307\u0323', '\u0c46\u0c56', '\uf900'],
  ),
  'emoji joined, toned and flagged': oneOf(
    ...['👩‍👩‍👧‍👦', '🏳️‍🌈', '👍🏽', '🇩🇪', '❤️', '1️⃣', '😀', '🧑🏿‍🚀', '\u200d', '\ufe0f', '🏴󠁧󠁢󠁳󠁣󠁴󠁿'],
  ),
  'Chinese, Japanese, Korean': anyOf(
    codePoints(0x4e00, 0x9fff),
    codePoints(0x20000, 0x2a6df),
    codePoints(0x3040, 0x30ff),
    codePoints(0xac00, 0xd7a3),
    oneOf('。', '，', '「', '」', '\u3000'),
  ),
  'Arabic and Hebrew': anyOf(
    codePoints(0x0620, 0x0652),
    codePoints(0x05d0, 0x05ea),
    oneOf(' ', '\u200c', '\u200f', '٣', 'ﷺ', '\u0640', '،'),
  ),
  'lone surrogates': anyOf(
    (random) => String.fromCharCode(random.integer(0xd800, 0xdfff)),
    oneOf('a', ' ', '\u0301', '\ufffd', '😀'),
  ),
  'line ends and spaces': oneOf(
    ...[
      '\r\n',
      '\n',
      '\r',
      '\u0085',
      '\u2028',
      '\v',
      '\f',
      'a',
      '.',
      ' ',
      '\t',
      '\u00a0',
      '\u3000',
      '\ufeff',
      '\u200b',
    ],
  ),
  'runs of spaces': anyOf(repeated(oneOf(' '), 1, 40), repeated(oneOf('\t', '\n', ' '), 1, 9), oneOf('x', '!', '7')),
  digits: oneOf('0', '1', '9', '12345', '٣', '५', '²', '½', 'Ⅷ', '𝟘', ' ', '.', ',', 'e'),
  'long runs without spaces': anyOf(
    repeated(latin, 100, 1500),
    repeated(oneOf('=', '-', '_', '.'), 100, 500),
    repeated(codePoints(0x4e00, 0x9fff), 100, 500),
    oneOf(' ', '\n'),
  ),
  'words and contractions': oneOf(
    ...[
      'the',
      ' quick',
      " don't",
      "'LL",
      "'ſ",
      '\u212a',
      " it's",
      '’s',
      ' "Holmes"',
      ',',
      '.\n',
      ' (',
      ');',
      'ß',
      ' I',
    ],
  ),
  'control tokens and parts of them': oneOf(
    ...['<|im_start|>', '<|im_end|>', '<|endoftext|>', '<|im_', 'end|>', '<', '|', '>', 'user\n', '<|IM_END|>'],
  ),
} satisfies Record<string, Writer>;

export type TextKind = keyof typeof writers;
export const textKinds = Object.keys(writers) as TextKind[];

/** A text of `pieces` pieces of some kinds, all of them unless they are named. */
export function randomText(random: Random, pieces: number, kinds: readonly TextKind[] = textKinds): string {
  return Array.from({ length: pieces }, () => writers[random.pick(kinds)](random)).join('');
}
