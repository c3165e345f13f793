"""`python -m tests.support.demo_with_fake_agent MODE ARGUMENTS...`: the demo, with the stand-in agent."""

import sys

from agent.cli import main
from agent.demo.processes import AgentProcess

if __name__ == "__main__":
    AgentProcess.command = (sys.executable, "-m", "tests.support.fake_agent", sys.argv[1])
    sys.exit(main(["demo", *sys.argv[2:]]))
