import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readSafetensorsHeader, type TensorEntry } from '../../lib/checkpoint/safetensors.js';
import { packageFolder } from '../../lib/native/addon.js';

/** The book-reading model of models/demo. */
export const demoFolder = join(packageFolder, 'models', 'demo', 'checkpoint');

/** The tiny models in bf16 of test/fixtures/models; the README there says what each exercises. */
export const denseFixtures = [
  'qwen1.5-mha',
  'qwen2-gqa',
  'qwen2-gqa-8h2kv',
  'qwen2-sliding',
  'qwen2-tied',
  'qwen2-yarn',
] as const;

/** Those with 4-bit weights: AWQ; GPTQ with zero biases where Qwen2 has none; GPTQ with columns sorted by weight. */
export const int4Fixtures = ['qwen2-awq', 'qwen2-gptq', 'qwen2-gptq-actorder'] as const;

export type FixtureName = (typeof denseFixtures | typeof int4Fixtures)[number];

export function fixtureFolder(name: FixtureName): string {
  return join(packageFolder, 'test', 'fixtures', 'models', name);
}

export interface ExpectedPrompt {
  name: string;
  tokens: number[];
  /** The next 32 tokens, each the most probable one. */
  greedy: number[];
  /** Largest difference of Hugging Face's own bf16 run from its float32 run, over the logits of all 32 steps. */
  low_precision_error: { bf16: number };
}

/** What Hugging Face's code computes for a fixture: expected.json and expected.safetensors. */
export class Expected {
  readonly prompts: readonly ExpectedPrompt[];
  readonly allLogitsPrompt: ExpectedPrompt;
  readonly hiddenPrompt: ExpectedPrompt;
  readonly #tensors: ReadonlyMap<string, TensorEntry>;

  private constructor(
    json: { prompts: ExpectedPrompt[]; all_logits_prompt: string; hidden_prompt: string },
    tensors: ReadonlyMap<string, TensorEntry>,
  ) {
    this.prompts = json.prompts;
    this.allLogitsPrompt = json.prompts.find(({ name }) => name === json.all_logits_prompt)!;
    this.hiddenPrompt = json.prompts.find(({ name }) => name === json.hidden_prompt)!;
    this.#tensors = tensors;
  }

  static async read(fixture: FixtureName): Promise<Expected> {
    const folder = fixtureFolder(fixture);
    const json = JSON.parse(await readFile(join(folder, 'expected.json'), 'utf8'));
    return new Expected(json, await readSafetensorsHeader(join(folder, 'expected.safetensors')));
  }

  /** Names of the states of `hiddenPrompt`, without the prompt's own. */
  get stateNames(): string[] {
    const prefix = `${this.hiddenPrompt.name}.`;
    const isState = (name: string) => name.startsWith(prefix) && !name.endsWith('_logits');
    return [...this.#tensors.keys()].filter(isState).map((name) => name.slice(prefix.length));
  }

  /** Modules of which the file has the weight dequantized, [in, out]. */
  get dequantizedModules(): string[] {
    return [...this.#tensors.keys()].flatMap((name) => (name.startsWith('dequant.') ? [name.slice(8)] : []));
  }

  /** A float32 tensor of expected.safetensors. */
  async tensor(name: string): Promise<Float32Array> {
    const entry = this.#tensors.get(name);
    if (entry?.dtype !== 'f32') throw new Error(`expected.safetensors has no f32 tensor ${name}`);
    const bytes = new Uint8Array(entry.byteLength);
    const file = await open(entry.path);
    try {
      await file.read(bytes, 0, bytes.length, entry.offset);
    } finally {
      await file.close();
    }
    return new Float32Array(bytes.buffer);
  }
}
