// An echo server of the library `ws`: node ws_echo.js PORT. On "close" it closes with 4001.
"use strict";

const { WebSocketServer } = require("ws");

const options = { host: "127.0.0.1", port: Number(process.argv[2]), perMessageDeflate: true };

new WebSocketServer(options).on("connection", (socket) => {
  socket.on("error", () => {}); // a frame that is none: the library has answered it
  socket.on("message", (data, isBinary) => {
    if (!isBinary && data.toString() === "close") {
      socket.close(4001, "bye");
    } else if (!isBinary) {
      socket.send(data.subarray(0, data.length / 2), { binary: false, fin: false });
      socket.send(data.subarray(data.length / 2), { binary: false, fin: true });
    } else {
      socket.send(data, { binary: true });
    }
  });
});
