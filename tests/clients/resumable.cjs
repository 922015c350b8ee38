// A chat endpoint by the pattern of npm `resumable-stream`, as its README has it: POST begins a stream, GET comes back.
//
//   node resumable.cjs <redis url> <key prefix> <events> <ms between two>
//
//   POST /chat/<id>              an answer in server-sent events, without ids
//   GET  /chat/<id>[?resumeAt=]  the same, from a character on; 422 when it is over
//
// Prints its port. CommonJS, so that NODE_PATH tells where the packages are.

const http = require('node:http');
const { Readable } = require('node:stream');
const { createClient } = require('redis');
const { createResumableStreamContext } = require('resumable-stream');

const [url, keyPrefix, events, pace] = process.argv.slice(2);

function answer() {
  let n = 0;
  return new ReadableStream({
    async pull(controller) {
      if (n === Number(events)) {
        controller.enqueue('data: [DONE]\n\n');
        return controller.close();
      }
      await new Promise((resolve) => setTimeout(resolve, Number(pace)));
      n += 1;
      controller.enqueue(`data: ${JSON.stringify({ type: 'text-delta', id: 't', delta: `word ${n} ` })}\n\n`);
    },
  });
}

async function main() {
  const [publisher, subscriber] = [createClient({ url }), createClient({ url })];
  await Promise.all([publisher.connect(), subscriber.connect()]);
  const streams = createResumableStreamContext({ waitUntil: null, keyPrefix, publisher, subscriber });

  const server = http.createServer(async (request, response) => {
    const { pathname, searchParams } = new URL(request.url, 'http://localhost');
    const [, route, id, more] = pathname.split('/');
    if (route !== 'chat' || !id || more) return response.writeHead(404).end();
    const resumeAt = searchParams.get('resumeAt');
    const stream =
      request.method === 'POST'
        ? await streams.createNewResumableStream(id, answer)
        : await streams.resumeExistingStream(id, resumeAt ? parseInt(resumeAt) : undefined);
    if (!stream) return response.writeHead(422).end('Stream is already done');
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    // Without a head the client would wait for the first token.
    response.flushHeaders();
    const body = Readable.fromWeb(stream.pipeThrough(new TextEncoderStream()));
    response.on('close', () => body.destroy());
    body.on('error', () => response.destroy());
    body.pipe(response);
  });
  server.listen(0, '127.0.0.1', () => console.log(server.address().port));
}

main();
