import assert from 'node:assert/strict';
import { StopStrings } from '../../lib/generation/stopStrings.js';
import { philox } from '../support/philox.js';

interface Outcome {
  text: string;
  /** How many pieces were taken; all of them if no stop string came. */
  pieces: number;
  stopped: boolean;
}

/** The definition: the stop string that ends first; of those that end at the same place, the longest. */
function naive(strings: readonly string[], pieces: readonly string[], mayStop: (piece: number) => boolean): Outcome {
  let before = '';
  for (const [i, piece] of pieces.entries()) {
    for (let end = before.length + 1; mayStop(i) && end <= before.length + piece.length; end++) {
      const text = (before + piece).slice(0, end);
      const ending = strings.filter((string) => text.endsWith(string)).map(({ length }) => length);
      if (ending.length > 0) return { text: text.slice(0, end - Math.max(...ending)), pieces: i + 1, stopped: true };
    }
    before += piece;
  }
  return { text: before, pieces: pieces.length, stopped: false };
}

/** What is under test, fed piece by piece; holds back no more than it must. */
function streamed(strings: readonly string[], pieces: readonly string[], mayStop: (piece: number) => boolean): Outcome {
  const stops = new StopStrings(strings);
  let text = '';
  let taken = '';
  for (const [i, piece] of pieces.entries()) {
    const matched = stops.push(piece, mayStop(i));
    text += matched.text;
    taken += piece;
    if (matched.stopped) return { text, pieces: i + 1, stopped: true };
    const held = taken.slice(text.length);
    assert.ok(taken.startsWith(text), 'text comes in order');
    assert.ok(held === '' || strings.some((string) => string !== held && string.startsWith(held)), `"${held}" is held`);
  }
  return { text: text + stops.end(), pieces: pieces.length, stopped: false };
}

const always = () => true;

describe('stop strings', () => {
  const cases: { title: string; stop: string[]; pieces: string[]; text: string; stopped: boolean }[] = [
    { title: 'within a piece', stop: ['STOP'], pieces: ['a STOP b'], text: 'a ', stopped: true },
    { title: 'across pieces', stop: ['STOP'], pieces: ['a S', 'T', 'OP b'], text: 'a ', stopped: true },
    { title: 'that begin and do not go on', stop: ['STOP'], pieces: ['a ST', 'x'], text: 'a STx', stopped: false },
    { title: 'that begin at the end', stop: ['STOP'], pieces: ['a STO'], text: 'a STO', stopped: false },
    { title: 'that begin anew within themselves', stop: ['aab'], pieces: ['aa', 'a', 'b'], text: 'a', stopped: true },
    { title: 'of which one ends first', stop: ['cde', 'bc'], pieces: ['abcde'], text: 'a', stopped: true },
    { title: 'of which one ends another', stop: ['c', 'abc'], pieces: ['xab', 'c'], text: 'x', stopped: true },
    { title: 'of which one is within another', stop: ['abcd', 'bc'], pieces: ['xabcd'], text: 'xa', stopped: true },
    { title: 'at the very beginning', stop: ['a'], pieces: ['ab'], text: '', stopped: true },
    { title: 'of several UTF-16 units', stop: ['🙂'], pieces: ['a🙂b'], text: 'a', stopped: true },
    { title: 'that are none', stop: [], pieces: ['a', 'b'], text: 'ab', stopped: false },
  ];
  for (const { title, stop, pieces, text, stopped } of cases)
    it(title, () => {
      const outcome = streamed(stop, pieces, always);
      assert.deepEqual([outcome.text, outcome.stopped], [text, stopped]);
      assert.deepEqual(naive(stop, pieces, always), outcome);
    });

  it('that come too early do not count, but may be finished later', () => {
    assert.equal(streamed(['ab'], ['xab', 'y'], (i) => i > 0).text, 'xaby');
    assert.equal(streamed(['ab'], ['xa', 'by'], (i) => i > 0).text, 'x');
    assert.equal(streamed(['ab'], ['xaba', 'by'], (i) => i > 0).text, 'xab');
  });

  it('agree with the definition on random texts of two letters', () => {
    let stoppedTexts = 0;
    for (let seed = 0; seed < 3000; seed++) {
      let counter = 0;
      const random = (below: number) => philox([counter++, 0, 0, 4], [seed, 0])[0] % below;
      const word = (length: number) => Array.from({ length }, () => 'ab'[random(2)]).join('');
      const strings = Array.from({ length: random(4) }, () => word(1 + random(7)));
      const pieces = Array.from({ length: 12 }, () => word(random(4)));
      const from = random(3) === 0 ? random(12) : 0;
      const mayStop = (piece: number) => piece >= from;
      const expected = naive(strings, pieces, mayStop);
      assert.deepEqual(streamed(strings, pieces, mayStop), expected, JSON.stringify({ strings, pieces, from }));
      if (expected.stopped) stoppedTexts++;
    }
    assert.ok(stoppedTexts > 500 && stoppedTexts < 2500, `${stoppedTexts} of 3000 texts are stopped`);
  });

  it('take time that grows with the text, not with text × string', () => {
    const string = `${'a'.repeat(20_000)}b`;
    const text = 'a'.repeat(100_000);
    // Comparing at every place would take 2·10⁹ steps: minutes.
    assert.equal(streamed([string], [text, 'c'], always).text.length, 100_001);
  }).timeout(5000);
});
