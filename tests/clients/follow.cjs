// Follows a session with npm `eventsource`, as a browser's EventSource would: it reconnects by itself.
//
//   node follow.cjs <url>
//
// Prints the id of each entry, and the gateway's own frames by their name; ends by itself at `closed` or 204.
// CommonJS, so that NODE_PATH tells where the package is.

const { EventSource } = require('eventsource');

const source = new EventSource(process.argv[2]);
const say = (line) => process.stdout.write(line + '\n');

source.onmessage = (message) => {
  JSON.parse(message.data);
  say(message.lastEventId);
};
source.addEventListener('caught-up', () => say('caught-up'));
source.addEventListener('reset', (message) => say(`reset ${message.data}`));
source.addEventListener('closed', () => {
  say('closed');
  source.close();
});
source.onerror = (error) => {
  // While it reconnects there is nothing to do.
  if (source.readyState !== EventSource.CLOSED) return;
  if (error.code === 204) return say('204');
  console.error(error);
  process.exitCode = 1;
};
