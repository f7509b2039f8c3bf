// A process of its own, for eventLoop.test.ts: filling fresh memory with poison takes the JavaScript thread's time, which no
// user's process spends. Loads the model argv[2] (JSON) argv[4] times with options argv[3] (JSON); prints the delays as JSON.
import { loadModel } from '../../lib/generation/loadModel.js';
import { watchEventLoop } from './eventLoop.js';

const [source, options, loads] = process.argv.slice(2).map((argument) => JSON.parse(argument));
await (await loadModel(source, options)).dispose();
const stop = watchEventLoop();
for (let i = 0; i < loads; i++) await (await loadModel(source, options)).dispose();
console.log(JSON.stringify(stop()));
