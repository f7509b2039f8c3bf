{
  "targets": [
    {
      "target_name": "qwen2",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["build/Release/qwen2.node"],
          "action": ["node", "scripts/gyp-cmake.mjs"]
        }
      ]
    }
  ]
}
