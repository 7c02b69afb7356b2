// What OpenAI's Node client gets from a server: arguments are its address, key, model and a file; prints one JSON object.
import fs from "node:fs";
import OpenAI from "openai";

const [baseURL, apiKey, model, path] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const ask = (more) => client.audio.transcriptions.create({ file: fs.createReadStream(path), model, ...more });
const failure = async (more) => {
  const error = await ask(more).then(() => null, (error) => error);
  return { kind: error?.constructor.name, status: error?.status, param: error?.param, id: error?.requestID };
};

const verbose = await ask({ response_format: "verbose_json", timestamp_granularities: ["segment"] });
const events = [];
for await (const event of await ask({ stream: true, chunking_strategy: "auto" })) events.push(event);

console.log(
  JSON.stringify({
    json: (await ask({})).text,
    logprobs: (await ask({ include: ["logprobs"] })).logprobs?.length ?? 0,
    text: await ask({ response_format: "text" }),
    srt: await ask({ response_format: "srt" }),
    vtt: await ask({ response_format: "vtt" }),
    verbose: verbose.text,
    segments: verbose.segments?.length ?? 0,
    types: events.map((event) => event.type),
    deltas: events.filter((event) => event.delta !== undefined).map((event) => event.delta).join(""),
    done: events.at(-1)?.text,
    notFound: await failure({ model: "no-such-model" }),
    badRequest: await failure({ temperature: 3 }),
    models: (await client.models.list()).data.map((one) => one.id),
  }),
);
