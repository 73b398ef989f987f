// Follows live events by the npm package centrifuge, as it is, and says on a line each what the package tells.
//
//     node centrifuge.js URL TOKEN
const { Centrifuge } = require('centrifuge');
const WebSocket = require('ws');

const [url, token] = process.argv.slice(2);
const client = new Centrifuge(url, {
    websocket: WebSocket,
    data: { application: 'notifications', settings: { token } },
    minReconnectDelay: 20,
    maxReconnectDelay: 100,
});
for (const what of ['connecting', 'connected', 'disconnected', 'subscribed', 'publication']) {
    client.on(what, (context) => console.log(JSON.stringify({ what, context })));
}
client.connect();
