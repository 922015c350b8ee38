// Starts the Durable Streams server for Node: `node serve.js PORT [DATA_DIR]`. Without a folder it keeps its streams in
// memory, which is its default and the faster one.
import { DurableStreamTestServer } from '@durable-streams/server';

const [port, dataDir] = process.argv.slice(2);
const server = new DurableStreamTestServer({ port: Number(port), host: '127.0.0.1', compression: false, dataDir });
await server.start();
