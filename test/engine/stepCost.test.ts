import assert from 'node:assert/strict';
import { stepMicroseconds } from '../support/nullEngine.js';

describe('what the JavaScript thread does for a step', () => {
  it('is as much as it has sequences, however many wait', async () => {
    const medianWith = async (waiting: number) => {
      const times = await stepMicroseconds(16, waiting, 500);
      return times.sort((a, b) => a - b)[250]!;
    };
    await medianWith(0);
    const [few, many] = [await medianWith(0), await medianWith(20_000)];
    assert.ok(many < 3 * few + 100, `${many} µs with 20,000 waiting, ${few} µs with none`);
  }).timeout(60_000);
});
