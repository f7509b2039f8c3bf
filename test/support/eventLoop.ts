import { readFileSync } from 'node:fs';

/** Milliseconds in which this process's first thread was ready to run while others had the cores; 0 if nobody counts. */
export function waitedForCore(): number {
  try {
    const [, nanoseconds] = readFileSync('/proc/self/schedstat', 'utf8').split(' ');
    return Number(nanoseconds) / 1e6;
  } catch {
    return 0;
  }
}

/**
 * Watches how long the event loop stands still from one turn to the next, less the time in which the operating system
 * gave the cores to others. The result ends the watch, and gives milliseconds.
 */
export function watchEventLoop(): () => { turns: number; p99: number; max: number } {
  const delays: number[] = [];
  let [time, waited] = [performance.now(), waitedForCore()];
  const turn = () => {
    const [timeBefore, waitedBefore] = [time, waited];
    [time, waited] = [performance.now(), waitedForCore()];
    delays.push(Math.max(0, time - timeBefore - (waited - waitedBefore)));
  };
  const timer = setInterval(turn, 1);
  return () => {
    clearInterval(timer);
    turn();
    delays.sort((a, b) => a - b);
    return { turns: delays.length, p99: delays[Math.floor(0.99 * (delays.length - 1))]!, max: delays.at(-1)! };
  };
}
