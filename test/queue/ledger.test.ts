import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Ledger, type ShardLine } from '../../lib/queue/shard.js';

const lineOf = (id: number): ShardLine => ({ id: String(id), number: id + 1, text: '' });
const linesFrom = (first: number, count: number) => Array.from({ length: count }, (_, i) => lineOf(first + i));

describe('the ledger of shards', () => {
  it('counts each result once, whatever comes in whatever order, and ends with nothing out', () =>
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 8 }),
        fc.uniqueArray(fc.nat(40), { maxLength: 10 }),
        fc.infiniteStream(fc.nat(1000)),
        (sizes, before, choices) => {
          const next = (below: number) => choices.next().value! % below;
          const ledger = new Ledger(new Set(before.map(String)));
          let first = 0;
          for (const [shard, size] of sizes.entries()) {
            ledger.add(`s${shard}`, linesFrom(first, size));
            first += size;
          }
          const all = Array.from({ length: first }, (_, id) => String(id));
          const missing = new Set(all.filter((id) => !before.includes(Number(id))));
          const counted: string[] = [];
          for (let results = 0; missing.size > 0; results++) {
            // Mostly results of what is out, in any order; some twice, some of what nobody asked for.
            const id = results % 3 === 2 ? String(next(60)) : [...missing][next(missing.size)]!;
            const wasDone = ledger.done.has(id);
            assert.equal(ledger.take(id), !wasDone);
            if (!wasDone) counted.push(id);
            missing.delete(id);
            assert.equal(ledger.requests, missing.size);
            for (const id of all) assert.equal(ledger.isOut(id), missing.has(id));
          }
          assert.equal(new Set(counted).size, counted.length);
          assert.deepEqual([ledger.shards, ledger.names()], [0, []]);
        },
      ),
    ));

  it('has no shard out of which all results are there, or are of other shards', () => {
    const ledger = new Ledger(new Set(['0']));
    ledger.add('a', linesFrom(0, 3));
    ledger.add('b', linesFrom(0, 3));
    assert.deepEqual(ledger.names(), ['a']);
    ledger.add('c', [lineOf(0)]);
    assert.equal(ledger.shards, 1);
  });

  it('gives what is missing of a shard that is struck off', () => {
    const ledger = new Ledger(new Set());
    ledger.add('a', linesFrom(0, 3));
    ledger.take('1');
    assert.deepEqual(
      ledger.remove('a').map(({ id }) => id),
      ['0', '2'],
    );
    assert.deepEqual([ledger.requests, ledger.shards], [0, 0]);
    assert.deepEqual(ledger.remove('a'), []);
  });
});
