import assert from 'node:assert/strict';
import { translatePattern } from '../../lib/tokenizer/pieces.js';

/** Code points that the pattern matches, each alone. */
function matched(pattern: RegExp): number[] {
  const found: number[] = [];
  for (let codePoint = 0; codePoint <= 0x10ffff; codePoint++)
    if (String.fromCodePoint(codePoint).match(pattern)) found.push(codePoint);
  return found;
}

const pieces = (source: string, text: string) => text.match(translatePattern(source)!);

describe("a tokenizer's regular expression, in Oniguruma's dialect", () => {
  it("means Unicode's white space by \\s, which JavaScript does not", () => {
    const whiteSpace = matched(/\p{White_Space}/u);
    assert.deepEqual(matched(translatePattern('\\s')!), whiteSpace);
    assert.deepEqual(matched(translatePattern('[\\s]')!), whiteSpace);
    assert.equal(matched(translatePattern('\\S')!).length, 0x110000 - whiteSpace.length);
    assert.equal(matched(translatePattern('[^\\s]')!).length, 0x110000 - whiteSpace.length);
  });

  it('ignores case by simple case folding', () => {
    assert.deepEqual(
      matched(translatePattern('(?i:s|k|d)')!),
      [...'DKSdks\u017f\u212a'].map((c) => c.codePointAt(0)),
    );
    assert.deepEqual(pieces("(?i:'s|'ll)|\\p{L}", "'S'lL'ſ'x"), ["'S", "'lL", "'ſ", 'x']);
  });

  it('takes alternatives in their order, look-ahead and greedy quantifiers', () => {
    assert.deepEqual(pieces('\\s+(?!\\S)|\\s+|\\p{N}{1,3}|[^\\s\\p{N}]+', '  a1234   b '), [
      ...[' ', ' ', 'a', '123', '4', '  ', ' ', 'b', ' '],
    ]);
  });

  for (const source of [
    ...['a++', 'a*+', '(?>a)', '\\h', '\\R', '\\X', '\\A', '^a', 'a$', '.', '(?<=a)b', '(?<name>a)', '\\1', '\\bword'],
    ...['[[:alpha:]]', '[a&&b]', '[^a&&[b]]', '(?i)a', '(?i:[a-z])', '(?x: a)', 'a{,3}', '\\p{^L}', '\\p{Nothing}'],
    ...['(a', 'a)', '[a', '+'],
  ])
    it(`is refused if it holds ${source}`, () => assert.equal(translatePattern(source), undefined));
});
