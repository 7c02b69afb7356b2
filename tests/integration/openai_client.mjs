// What OpenAI's Node client gets from a server: arguments are its address and a file; prints one JSON object.
import fs from "node:fs";
import OpenAI from "openai";

const [address, path] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "-", maxRetries: 0 });
const ask = (more) =>
  client.audio.transcriptions.create({ file: fs.createReadStream(path), model: "whisper-1", language: "it", ...more });

const json = await ask({ include: ["logprobs"] });
const verbose = await ask({ response_format: "verbose_json", timestamp_granularities: ["segment"] });
const events = [];
for await (const event of await ask({ stream: true, chunking_strategy: "auto" })) events.push(event);
const failure = await ask({ model: "whisper-9" }).catch((error) => error);

console.log(
  JSON.stringify({
    json: json.text,
    logprobs: json.logprobs.length,
    text: await ask({ response_format: "text" }),
    srt: await ask({ response_format: "srt" }),
    vtt: await ask({ response_format: "vtt" }),
    verbose: verbose.segments.map((segment) => segment.text).join(" "),
    language: verbose.language,
    deltas: events.filter((event) => event.type === "transcript.text.delta").map((event) => event.delta).join(""),
    done: events.at(-1).text,
    failure: { kind: failure.constructor.name, status: failure.status, code: failure.code, param: failure.param },
    models: (await client.models.list()).data.map((model) => model.id),
  }),
);
